"""A candidate answers beside production in spare time; all that is left out is counted."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llama_factory.core.records import append_records
from llama_factory.inference.question import Answer, AnswerPiece, Options, Prompt
from llama_factory.serving.api import create_app
from llama_factory.serving.settings import ServingSettings
from llama_factory.serving.shadow_report import file_of, read_summary
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.serving.running import running, wait_until
from tests.serving.scripted import Behaviour, ScriptedEngine, Users


class HeldCandidate(ScriptedEngine):
    """Its candidate waits before it answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.gate = threading.Event()
        self.num_begun = 0

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        if version_id == "v0002":
            self.num_begun += 1
            while not self.gate.is_set():
                await asyncio.sleep(0.01)
        async for event in super().answer(version_id, prompt, options):
            yield event


@contextmanager
def shadowed(workspace: Workspace, engine: ScriptedEngine, **more: Any) -> Iterator[Users]:
    """A server whose candidate shadows every answer."""
    releases.hold(workspace.releases, "v0002", "refused: worse")
    shadow = {"fraction": 1.0} | more.pop("shadow", {})
    settings = ServingSettings(poll_seconds=0.05, shadow=shadow, **more)
    with running(create_app(workspace, settings, engine)) as client:
        wait_until(lambda: "v0002" in engine.loaded, "the candidate")
        yield Users(client, lambda *_: None)


def summary_of(workspace: Workspace) -> Any:
    return read_summary(workspace, "v0002")


def num_of(workspace: Workspace) -> int:
    summary = summary_of(workspace)
    return summary.num_compared + sum(summary.skipped.values()) if summary else 0


def test_a_candidate_answers_too_and_nobody_gets_its_answers(own_workspace: Workspace) -> None:
    engine = ScriptedEngine({"v0002": Behaviour(wrong=0.5)})
    with shadowed(own_workspace, engine) as users:
        users.talk(20)
        wait_until(lambda: num_of(own_workspace) == 20, "all shadows")
    assert set(users.versions) == {"v0001"}
    summary = summary_of(own_workspace)
    assert summary.num_compared == 20
    assert 0 < summary.num_same < 20
    assert summary.overlap == pytest.approx(summary.num_same / 20)
    assert summary.num_tokens == 20 * 9
    assert "answers the same as production's" in summary.sentence
    text = file_of(own_workspace, "v0002").read_text()
    assert "right" not in text
    assert "hello" not in text


def test_nothing_is_shadowed_unless_it_is_asked_for(own_workspace: Workspace) -> None:
    engine = ScriptedEngine({})
    with shadowed(own_workspace, engine, shadow={"fraction": 0.0}) as users:
        users.talk(10)
    assert engine.num_answers["v0002"] == 0
    assert summary_of(own_workspace) is None


@pytest.mark.slow
def test_a_shadow_makes_way_for_whoever_waits_and_is_counted(own_workspace: Workspace) -> None:
    engine = HeldCandidate({"v0001": Behaviour(seconds=0.3)})
    with shadowed(own_workspace, engine, max_running=1) as users:
        users.talk(1)
        wait_until(lambda: engine.num_begun == 1, "the shadow")
        others = [threading.Thread(target=users.talk, args=[1]) for _ in range(3)]
        for each in others:
            each.start()
        for each in others:
            each.join()
        assert users.versions["v0001"] == 4
        wait_until(lambda: num_of(own_workspace) >= 1, "the count")
        engine.gate.set()
    assert summary_of(own_workspace).skipped["cut short"] >= 1


def test_the_tokens_of_a_day_are_limited_and_failures_are_counted(own_workspace: Workspace) -> None:
    engine = ScriptedEngine({"v0002": Behaviour(failing=0.5)})
    with shadowed(own_workspace, engine, shadow={"max_tokens_a_day": 30}) as users:
        users.talk(20)
        wait_until(lambda: num_of(own_workspace) == 20, "all shadows")
    summary = summary_of(own_workspace)
    assert summary.num_compared == 4, "each costs 9 tokens"
    assert summary.skipped["day's tokens used up"] >= 1
    assert sum(summary.skipped.values()) == 16


def test_a_line_that_a_kill_cut_is_left_out(own_workspace: Workspace) -> None:
    path = file_of(own_workspace, "v0002")
    append_records(path, [{"day": "2026-01-01", "cost": 9, "skipped": "failed"}])
    with path.open("a") as file:
        file.write('{"day": "2026')
    assert summary_of(own_workspace).skipped == {"failed": 1}
    assert read_summary(own_workspace, "v0009") is None
