"""One thread that does blocking work in turn. Knows nothing of models and requests."""

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")

AT_ONCE, IN_TURN, AT_THE_END = range(3)


@dataclass(frozen=True, order=True)
class _Task:
    urgency: int
    number: int
    work: Callable[[], Any] | None = field(compare=False)
    future: Future[Any] = field(compare=False)


class Worker:
    """Runs whatever it is given, one piece of work after the other, on a thread of its own."""

    def __init__(self) -> None:
        self._tasks: queue.PriorityQueue[_Task] = queue.PriorityQueue()
        self._numbers = itertools.count()
        # A daemon, so that a second Ctrl-C ends the program in the middle of an answer.
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Result], *, urgency: int = IN_TURN) -> Future[Result]:
        """Run `work` after all that is more urgent or was submitted before.

        Args:
            work: what to run.
            urgency: `AT_ONCE` overtakes what waits, not what runs.

        Returns:
            Its result or error; cancelling it works as long as it has not begun.
        """
        future: Future[Result] = Future()
        self._tasks.put(_Task(urgency, next(self._numbers), work, future))
        return future

    def stop(self) -> None:
        """Do what was submitted, then end the thread."""
        self._tasks.put(_Task(AT_THE_END, next(self._numbers), None, Future()))
        self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()).work is not None:
            if task.future.set_running_or_notify_cancel():
                _fulfil(task.future, task.work)


def _fulfil(future: Future[Any], work: Callable[[], Any]) -> None:
    try:
        result = work()
    except BaseException as error:  # noqa: BLE001  # whoever waits for the future gets it
        future.set_exception(error)
    else:
        future.set_result(result)
