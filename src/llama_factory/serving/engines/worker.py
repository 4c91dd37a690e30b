"""A thread that computes step by step, and does between two steps what it is given."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from llama_factory.core.futures import fulfil

Result = TypeVar("Result")

ENGINE_THREAD = "engine"

STOP_SECONDS = 3.0
"""How long `stop` waits for work in progress."""

logger = logging.getLogger(__name__)

Task = tuple[Callable[[], Any], "Future[Any]"]


class Worker:
    """Owns what computes: nothing else may call it but through `submit`."""

    def __init__(self, step: Callable[[], bool], on_failure: Callable[[Exception], None]) -> None:
        """Begin.

        Args:
            step: computes a little; returns whether there is more to compute.
            on_failure: takes what `step` raised; computing goes on after it.
        """
        self._step = step
        self._on_failure = on_failure
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        # A daemon, so that a second Ctrl-C ends the program in the middle of an answer.
        self._thread = threading.Thread(target=self._run, name=ENGINE_THREAD, daemon=True)
        self._thread.start()

    def submit(self, work: Callable[[], Result]) -> "Future[Result]":
        """Run `work` before the next step, after all that was submitted before.

        Returns:
            Its result or error; cancelling it works as long as it has not begun.
        """
        future: Future[Result] = Future()
        self._tasks.put((work, future))
        return future

    def stop(self, seconds: float | None = None) -> bool:
        """Do what was submitted, then end the thread, whatever is left to compute.

        Returns:
            Whether it ended within `seconds` (by default 3); work that never ends must not hold up
            its caller.
        """
        self._tasks.put(None)
        self._thread.join(STOP_SECONDS if seconds is None else seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        has_more = False
        while True:
            try:
                task = self._tasks.get(block=not has_more)
            except queue.Empty:
                has_more = self._advance()
                continue
            if task is None:
                return
            work, future = task
            fulfil(future, work)
            has_more = True  # the task may have given the steps something to compute

    def _advance(self) -> bool:
        try:
            return self._step()
        except Exception as error:
            logger.exception("answers failed")
            self._on_failure(error)
            return False
