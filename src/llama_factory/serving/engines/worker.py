"""A thread of its own for work that must not hold up the event loop, most urgent first."""

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

Result = TypeVar("Result")

AT_ONCE, BEFORE_THE_NEXT, IN_TURN, AT_THE_END = range(4)

ENGINE_THREAD = "engine"

STOP_SECONDS = 3.0
"""How long `stop` waits for work in progress."""


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
        self._thread = threading.Thread(target=self._run, name=ENGINE_THREAD, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Result], *, urgency: int = IN_TURN) -> Future[Result]:
        """Run `work` after all that is more urgent or was submitted before.

        Args:
            work: what to run.
            urgency: `BEFORE_THE_NEXT` overtakes what waits; `AT_ONCE` also what runs, wherever
                that calls `run_urgent`.

        Returns:
            Its result or error; cancelling it works as long as it has not begun.
        """
        future: Future[Result] = Future()
        self._tasks.put(_Task(urgency, next(self._numbers), work, future))
        return future

    def run_urgent(self) -> None:
        """Do what is to be done at once. For work in progress, at points where it may pause."""
        while self._is_urgent_next():
            _do(self._tasks.get())

    def stop(self, seconds: float | None = None) -> bool:
        """Do what was submitted, then end the thread.

        Returns:
            Whether it ended within `seconds` (by default 3); work that never ends must not hold up
            its caller.
        """
        self._tasks.put(_Task(AT_THE_END, next(self._numbers), None, Future()))
        self._thread.join(STOP_SECONDS if seconds is None else seconds)
        return not self._thread.is_alive()

    def _is_urgent_next(self) -> bool:
        with self._tasks.mutex:
            waiting = self._tasks.queue
            return bool(waiting) and waiting[0].urgency == AT_ONCE

    def _run(self) -> None:
        while (task := self._tasks.get()).work is not None:
            _do(task)


def _do(task: _Task) -> None:
    if task.work is None or not task.future.set_running_or_notify_cancel():
        return
    try:
        result = task.work()
    except BaseException as error:  # noqa: BLE001  # whoever waits for the future gets it
        task.future.set_exception(error)
    else:
        task.future.set_result(result)
