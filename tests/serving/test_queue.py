"""One request is answered at a time: who waits, who is refused, who leaves."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from llama_factory.inference.engines.transformers import TransformersEngine
from llama_factory.inference.question import Answer
from llama_factory.serving.api import create_app
from llama_factory.serving.queue import AT_ONCE, BEFORE_THE_NEXT, Worker
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
    with serving(own_workspace, engine, max_queue=1) as client:
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
    app = create_app(own_workspace, ServingSettings(), engine)
    with running(app) as client, ThreadPoolExecutor() as threads:
        begun = threads.submit(stream, client)
        wait_until(lambda: engine.num_begun == 1, "the first request")
        waiting = threads.submit(ask, client)
        wait_until(lambda: health(client)["queue"] == 1, "the second request")
        app.state.service.queue.cut_short()
        with pytest.raises(openai.APIError, match="the server is being stopped"):
            begun.result()
        with pytest.raises(openai.InternalServerError, match="the server is being stopped") as told:
            waiting.result()
        assert told.value.status_code == 503


class BrokenEngine(TransformersEngine):
    """Fails in a way that nobody foresaw."""

    def generate(self, *_: Any) -> Answer:
        raise ZeroDivisionError("a secret of the server")


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


def test_urgent_work_overtakes_what_waits() -> None:
    worker, gate, done = Worker(), threading.Event(), []
    worker.submit(gate.wait)
    for name in ("first", "second"):
        worker.submit(lambda name=name: done.append(name))
    worker.submit(lambda: done.append("urgent"), urgency=AT_ONCE)
    gate.set()
    worker.stop()
    assert done == ["urgent", "first", "second"]


def test_an_error_reaches_whoever_waits_and_the_worker_goes_on() -> None:
    worker = Worker()
    failing = worker.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result()
    assert worker.submit(lambda: 1).result() == 1
    worker.stop()


def test_work_that_was_cancelled_is_not_begun() -> None:
    worker, gate = Worker(), threading.Event()
    worker.submit(gate.wait)
    cancelled = worker.submit(lambda: pytest.fail("it was begun"))
    assert cancelled.cancel()
    gate.set()
    worker.stop()
    assert cancelled.cancelled()


def test_urgent_work_is_done_within_work_that_lets_it() -> None:
    worker, begun, gate, done = Worker(), threading.Event(), threading.Event(), []

    def long_work() -> None:
        begun.set()
        gate.wait()
        done.append("begun")
        worker.run_urgent()
        done.append("ended")

    worker.submit(long_work)
    begun.wait()
    worker.submit(lambda: done.append("in turn"))
    worker.submit(lambda: done.append("before the next"), urgency=BEFORE_THE_NEXT)
    failing = worker.submit(lambda: 1 // 0, urgency=AT_ONCE)
    worker.submit(lambda: done.append("at once"), urgency=AT_ONCE)
    gate.set()
    assert worker.stop()
    assert done == ["begun", "at once", "ended", "before the next", "in turn"]
    assert isinstance(failing.exception(), ZeroDivisionError)


def test_stopping_does_not_wait_for_work_that_never_ends() -> None:
    worker, gate = Worker(), threading.Event()
    worker.submit(gate.wait)
    assert not worker.stop(seconds=0.01)
    gate.set()
    assert worker.stop()
