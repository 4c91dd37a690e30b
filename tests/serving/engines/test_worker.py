"""Work on a thread of its own: what overtakes what, what fails, and what never ends."""

import threading

import pytest

from llama_factory.serving.engines.worker import AT_ONCE, BEFORE_THE_NEXT, Worker


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
