"""A new release reaches new requests and disturbs none that is under way."""

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openai import OpenAI

from llama_factory.versions import releases
from tests.serving.running import (
    HeldEngine,
    answer_alone,
    health,
    held_up,
    make_engine,
    make_released_workspace,
    serving,
    wait_until,
    without_numbers,
)
from tests.tiny import publish_adapter

QUESTIONS = ("hello", "What is the refund policy?", "你们的退货政策是什么？")

GRACE_SECONDS = 2.0
"""A request that starts this long after a promotion must be answered by the new version."""


@dataclass(frozen=True)
class Answered:
    started: float
    ended: float
    question: str
    version: str
    text: str


@dataclass
class Load:
    """Clients that ask without pause, streaming and not."""

    client: OpenAI
    answered: list[Answered] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def ask_on(self) -> None:
        for number in itertools.count():
            if self.is_over.is_set():
                return
            try:
                question = QUESTIONS[number % len(QUESTIONS)]
                self.answered.append(ask(self.client, question, is_stream=number % 2 == 0))
            except Exception as error:  # noqa: BLE001  # whatever fails, the test must see it
                self.failures.append(error)

    def since(self, moment: float) -> list[Answered]:
        return [answer for answer in self.answered if answer.started >= moment]


def ask(client: OpenAI, question: str, *, is_stream: bool) -> Answered:
    started = time.monotonic()
    asked = [{"role": "user", "content": question}]
    got = client.chat.completions.create(
        model="production", messages=asked, temperature=0, stream=is_stream
    )
    if not is_stream:
        ended = time.monotonic()
        return Answered(started, ended, question, got.model, got.choices[0].message.content)
    chunks = list(got)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    return Answered(started, time.monotonic(), question, chunks[0].model, text)


@contextmanager
def asking(client: OpenAI, num_threads: int = 4) -> Iterator[Load]:
    load = Load(client)
    with ThreadPoolExecutor(num_threads) as threads:
        asking = [threads.submit(load.ask_on) for _ in range(num_threads)]
        try:
            yield load
        finally:
            load.is_over.set()
    for each in asking:
        each.result()


@pytest.mark.slow
def test_promotion_under_load_fails_no_request(tmp_path: Path, tiny_model: Path) -> None:
    workspace = make_released_workspace(tmp_path / "my-bot", tiny_model)
    alone = {
        (version, question): answer_alone(tiny_model, workspace, version, question)
        for version in ("v0001", "v0002")
        for question in QUESTIONS
    }
    assert len(set(alone.values())) == len(alone), "each answer must betray its version"

    with serving(workspace, make_engine(tiny_model)) as client, asking(client) as load:
        wait_until(lambda: len(load.answered) >= 8, "the first answers")
        releases.promote(workspace.releases, "v0002", "test")
        promoted = time.monotonic()
        settled = promoted + GRACE_SECONDS
        wait_until(lambda: len(load.since(settled)) >= 8, "answers after the promotion")
        rolled_back = time.monotonic()
        releases.promote(workspace.releases, "v0001", "rolled back")
        back = rolled_back + GRACE_SECONDS
        wait_until(lambda: len(load.since(back)) >= 8, "answers after the roll back")

    assert load.failures == []
    assert all(a.text == alone[a.version, a.question] for a in load.answered)
    before = {a.version for a in load.answered if a.ended < promoted}
    between = {a.version for a in load.since(settled) if a.ended < rolled_back}
    assert "v0001" in before
    assert between == {"v0002"}
    assert {a.version for a in load.since(back)} == {"v0001"}


@pytest.mark.slow
def test_a_request_ends_on_the_version_it_began_with(tmp_path: Path, tiny_model: Path) -> None:
    """v0001 is promoted away twice, so that no alias names it while its answer is under way."""
    workspace = make_released_workspace(tmp_path / "my-bot", tiny_model)
    expected = answer_alone(tiny_model, workspace, "v0001", "hello")
    engine = HeldEngine(tiny_model)
    few = {"max_versions": 1}
    with serving(workspace, engine, **few) as client, ThreadPoolExecutor() as threads:
        begun = threads.submit(ask, client, "hello", is_stream=True)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        for version in ("v0002", "v0000"):
            releases.promote(workspace.releases, version, "test")
        wait_until(lambda: health(client)["version"] == "v0000", "the release")
        engine.gate.set()
        assert begun.result().version == "v0001"
        assert begun.result().text == f"*{expected}"
        wait_until(lambda: "v0001" not in engine.loaded, "the unloading of v0001")
        assert ask(client, "hello", is_stream=False).version == "v0000"


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_request_that_waits_is_not_answered_by_a_version_taken_back(
    tmp_path: Path, tiny_model: Path, is_stream: bool
) -> None:
    workspace = make_released_workspace(tmp_path / "my-bot", tiny_model)
    expected = answer_alone(tiny_model, workspace, "v0000", "hello")
    engine = HeldEngine(tiny_model)
    one = {"max_running": 1}
    with serving(workspace, engine, **one) as client, ThreadPoolExecutor() as threads:
        begun = threads.submit(ask, client, "hello", is_stream=True)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        waiting = [threads.submit(ask, client, "hello", is_stream=is_stream) for _ in range(3)]
        wait_until(lambda: health(client)["queue"] == 3, "the other requests")
        releases.promote(workspace.releases, "v0000", "rolled back")
        wait_until(lambda: health(client)["version"] == "v0000", "the roll back")
        engine.gate.set()
        assert begun.result().version == "v0001"
        assert {each.result().version for each in waiting} == {"v0000"}
        assert {each.result().text.removeprefix("*") for each in waiting} == {expected}


class StuckEngine(HeldEngine):
    """Cannot unload until it is let go."""

    is_unloading = False

    async def unload(self, version_id: str) -> None:
        self.is_unloading = True
        await held_up(self.gate)
        await super().unload(version_id)


@pytest.mark.slow
def test_a_rollback_waits_neither_for_an_answer_nor_for_an_unloading(
    tmp_path: Path, tiny_model: Path
) -> None:
    workspace = make_released_workspace(tmp_path / "my-bot", tiny_model)
    engine = StuckEngine(tiny_model)
    with serving(workspace, engine, max_versions=1) as client, ThreadPoolExecutor() as threads:
        for version in ("v0002", "v0000"):
            releases.promote(workspace.releases, version, "test")
            wait_until(lambda v=version: health(client)["version"] == v, "the release")
        wait_until(lambda: engine.is_unloading, "the unloading of v0001")
        releases.promote(workspace.releases, "v0002", "rolled back")
        wait_until(lambda: health(client)["version"] == "v0002", "the roll back")
        begun = threads.submit(ask, client, "hello", is_stream=True)
        wait_until(lambda: engine.num_begun == 1, "the answer")
        assert not engine.gate.is_set()
        engine.gate.set()
        assert begun.result().version == "v0002"


@pytest.mark.slow
def test_a_long_answer_does_not_hold_up_a_release(tmp_path: Path, tiny_model: Path) -> None:
    workspace = make_released_workspace(tmp_path / "my-bot", tiny_model)
    engine = HeldEngine(tiny_model)
    with serving(workspace, engine, max_running=1) as client, ThreadPoolExecutor() as threads:
        begun = threads.submit(ask, client, "hello", is_stream=True)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        releases.promote(workspace.releases, "v0002", "test")
        wait_until(lambda: health(client)["version"] == "v0002", "the release")
        assert "v0002" in engine.loaded
        after = threads.submit(ask, client, "hello", is_stream=False)
        wait_until(lambda: health(client)["queue"] == 1, "the second request")
        engine.gate.set()
        assert begun.result().version == "v0001"
        assert after.result().version == "v0002"
    assert after.result().text == answer_alone(tiny_model, workspace, "v0002", "hello")


@pytest.mark.slow
def test_a_version_that_computes_no_numbers_never_takes_over_a_busy_server(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = make_released_workspace(tmp_path / "my-bot", tiny_model)
    broken = publish_adapter(workspace, tiny_model, without_numbers(tiny_model))
    engine = HeldEngine(tiny_model)
    with serving(workspace, engine) as client, ThreadPoolExecutor() as threads:
        begun = threads.submit(ask, client, "hello", is_stream=True)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        releases.promote(workspace.releases, broken.id, "test")
        wait_until(lambda: "no numbers" in caplog.text, "the refusal in the log")
        told = health(client)
        assert (told["version"], told["released"]) == ("v0001", broken.id)
        engine.gate.set()
        assert begun.result().version == "v0001"
        assert ask(client, "hello", is_stream=False).version == "v0001"
        assert broken.id not in engine.loaded
        releases.promote(workspace.releases, "v0002", "test")
        wait_until(lambda: health(client)["version"] == "v0002", "the release")
        assert ask(client, "hello", is_stream=True).version == "v0002"
    assert caplog.text.count("v0001 goes on answering") == 1
