"""Work between the steps of a thread: what fails, what is cancelled, and what never ends."""

import threading

import pytest

from llama_factory.serving.engines.worker import Worker


def idle() -> bool:
    return False


def make_worker(step=idle, on_failure=print) -> Worker:
    return Worker(step, on_failure)


def test_work_is_done_between_steps_and_steps_go_on_as_long_as_there_is_more() -> None:
    done: list[str] = []
    left = threading.Event()

    def step() -> bool:
        done.append("step")
        if done.count("step") == 3:
            worker.submit(lambda: done.append("work"))
        if len(done) == 6:
            left.set()
        return len(done) < 6

    worker = make_worker(step)
    worker.submit(lambda: done.append("begin"))
    assert left.wait(10)
    assert worker.stop()
    assert done == ["begin", "step", "step", "step", "work", "step"]


def test_an_error_reaches_whoever_waits_and_the_worker_goes_on() -> None:
    worker = make_worker()
    failing = worker.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result()
    assert worker.submit(lambda: 1).result() == 1
    worker.stop()


def test_a_step_that_fails_is_said_and_the_next_work_is_done() -> None:
    failures: list[Exception] = []
    failed = threading.Event()

    def step() -> bool:
        raise ZeroDivisionError

    def keep(error: Exception) -> None:
        failures.append(error)
        failed.set()

    worker = make_worker(step, keep)
    worker.submit(lambda: None)
    assert failed.wait(10)
    assert worker.submit(lambda: 1).result() == 1
    assert worker.stop()
    assert {type(each) for each in failures} == {ZeroDivisionError}


def test_work_that_was_cancelled_is_not_begun() -> None:
    worker, gate = make_worker(), threading.Event()
    worker.submit(gate.wait)
    cancelled = worker.submit(lambda: pytest.fail("it was begun"))
    assert cancelled.cancel()
    gate.set()
    worker.stop()
    assert cancelled.cancelled()


def test_stopping_does_not_wait_for_work_that_never_ends() -> None:
    worker, gate = make_worker(), threading.Event()
    worker.submit(gate.wait)
    assert not worker.stop(seconds=0.01)
    gate.set()
    assert worker.stop()
