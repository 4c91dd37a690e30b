"""Requests on their way to the engine: who waits, who is refused, who leaves, who is cut."""

from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from llama_factory.inference.question import Answer, AnswerPiece
from llama_factory.serving.api import create_app
from llama_factory.serving.engines.local import LocalEngine
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace
from tests.serving.running import (
    HeldEngine,
    ask,
    health,
    running,
    serving,
    settings_of,
    stream,
    wait_until,
)


@pytest.fixture
def held(own_workspace: Workspace, tiny_model: Path) -> Iterator[tuple[HeldEngine, OpenAI]]:
    """A server whose engine waits after its first piece of text."""
    engine = HeldEngine(tiny_model)
    with serving(own_workspace, engine, max_running=1, max_queue=1) as client:
        yield engine, client
        engine.gate.set()


def test_one_request_more_than_may_wait_is_refused(held: tuple[HeldEngine, OpenAI]) -> None:
    engine, client = held
    with ThreadPoolExecutor() as threads:
        running = threads.submit(ask, client)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        waiting = threads.submit(ask, client)
        wait_until(lambda: health(client)["queue"] == 1, "the second request")
        with pytest.raises(openai.RateLimitError, match="1 requests are waiting already") as told:
            ask(client)
        assert told.value.type == "rate_limit_error"
        assert int(told.value.response.headers["retry-after"]) >= 1
        engine.gate.set()
        assert running.result().choices == waiting.result().choices


def test_a_client_that_leaves_a_stream_stops_its_answer(held: tuple[HeldEngine, OpenAI]) -> None:
    engine, client = held
    events = ask(client, stream=True)
    next(events)
    events.close()
    wait_until(lambda: engine.num_stopped == 1, "the end of the abandoned answer")


def test_a_client_that_hangs_up_stops_its_answer(held: tuple[HeldEngine, OpenAI]) -> None:
    engine, client = held
    with pytest.raises(openai.APITimeoutError):
        ask(client, timeout=0.5)
    wait_until(lambda: engine.num_stopped == 1, "the end of the abandoned answer")


def test_a_client_that_leaves_the_queue_makes_room(held: tuple[HeldEngine, OpenAI]) -> None:
    engine, client = held
    with ThreadPoolExecutor() as threads:
        running = threads.submit(ask, client)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        with pytest.raises(openai.APITimeoutError):
            ask(client, timeout=0.5)
        wait_until(lambda: health(client)["queue"] == 0, "room in the queue")
        engine.gate.set()
        assert running.result().model == "v0001"
    assert engine.num_begun == 1


def test_answers_cut_short_are_told_so(own_workspace: Workspace, tiny_model: Path) -> None:
    engine = HeldEngine(tiny_model)
    app = create_app(own_workspace, ServingSettings(max_running=1), engine)
    with running(app) as client, ThreadPoolExecutor() as threads:
        begun = threads.submit(stream, client)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        waiting = threads.submit(ask, client)
        wait_until(lambda: health(client)["queue"] == 1, "the second request")
        app.state.gateway.cut_short()
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            begun.result()
        with pytest.raises(openai.InternalServerError, match="the server is being stopped") as told:
            waiting.result()
        assert told.value.status_code == 503


class BrokenEngine(LocalEngine):
    """Fails in a way that nobody foresaw."""

    async def answer(self, *_: Any) -> AsyncGenerator[AnswerPiece | Answer, None]:
        raise ZeroDivisionError("a secret of the server")
        yield


@pytest.mark.variants
@pytest.mark.parametrize("is_stream", [False, True])
def test_an_unforeseen_failure_is_told_without_its_cause(
    own_workspace: Workspace,
    tiny_model: Path,
    caplog: pytest.LogCaptureFixture,
    is_stream: bool,
) -> None:
    with serving(own_workspace, BrokenEngine(settings_of(tiny_model))) as client:
        with pytest.raises(openai.InternalServerError, match="its log says why") as told:
            ask(client, stream=is_stream)
        assert told.value.type == "server_error"
        assert "secret" not in told.value.response.text
        assert "a secret of the server" in caplog.text
        assert health(client)["queue"] == 0
