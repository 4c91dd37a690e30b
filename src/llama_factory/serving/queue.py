"""Requests on their way to the engine: a bounded queue, answered one at a time on one thread."""

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from llama_factory.core.types import BASE_VERSION
from llama_factory.inference.engine import Engine
from llama_factory.inference.question import Answer, Options, Question
from llama_factory.serving.errors import QueueFullError, ShuttingDownError
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)


Result = TypeVar("Result")

AT_ONCE, BEFORE_THE_NEXT, IN_TURN, AT_THE_END = range(4)

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
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
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


class _Line:
    """Carries text from the engine's thread to the event loop, and word back that it may stop."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.is_cut = threading.Event()
        self._loop = asyncio.get_running_loop()

    def put(self, piece: str | None) -> None:
        """Send a piece; None says that no more will come."""
        # A second Ctrl-C closes the loop under an answer in progress: nobody is left to hear it.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


@dataclass(eq=False)
class PendingAnswer:
    """The answer to one request, from its arrival to its end.

    Attributes:
        name: the alias or version that the request asks for.
        version_id: the version that answers, whatever is released meanwhile; empty until the
            answer begins.
    """

    name: str
    version_id: str = ""
    _future: Future[Answer] = field(default_factory=Future)
    _line: _Line = field(default_factory=_Line)

    @property
    def is_over(self) -> bool:
        """Whether it was answered, failed, or left the queue before its turn."""
        return self._future.done()

    @property
    def answer(self) -> Answer | None:
        """The whole answer, where there is one."""
        is_whole = self.is_over and not self._future.cancelled() and not self._future.exception()
        return self._future.result() if is_whole else None

    def cancel(self) -> None:
        """Nobody waits for it any more: leave the queue, or stop at the next token."""
        self._line.is_cut.set()
        self._future.cancel()

    async def events(self) -> AsyncGenerator[str | Answer, None]:
        """Pieces of text as they come, then the whole answer. Leaving it early cancels.

        Raises:
            FactoryError: the engine could not answer.
            ShuttingDownError: the answer was cut because the server ends.
        """
        try:
            while (piece := await self._line.pieces.get()) is not None:
                yield piece
            if self._line.is_cut.is_set():
                raise ShuttingDownError("the server is being stopped. Ask again once it is back.")
            yield self._future.result()
        finally:
            self.cancel()


class AnswerQueue:
    """Owns the engine. Lives on the event loop; the engine's work is done on its worker."""

    def __init__(self, engine: Engine, workspace: Workspace, *, max_waiting: int) -> None:
        self._engine = engine
        self._workspace = workspace
        self._max_waiting = max_waiting
        self._worker = Worker()
        self._pending: list[PendingAnswer] = []
        self._freeing: Future[None] | None = None
        # Which versions stay loaded is decided on the event loop and obeyed on the worker.
        self._lock = threading.Lock()
        self._kept: frozenset[str] = frozenset()
        self._leaving = ""

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the one being answered."""
        return max(0, len(self._unfinished()) - 1)

    def submit(
        self, name: str, version_named: Callable[[str], str], question: Question, options: Options
    ) -> PendingAnswer:
        """Queue a request.

        Args:
            name: the alias or version that is asked for.
            version_named: the version that a name means. It is called when the answer begins, on
                the worker's thread: a request that waits while a version is taken back is not
                answered by that version.
            question: what is asked.
            options: how to answer.

        Raises:
            QueueFullError: `max_waiting` requests wait already.
        """
        if self.num_waiting >= self._max_waiting:
            raise QueueFullError(
                f"{self._max_waiting} requests are waiting already. Try again in a moment, or "
                "raise serving.max_queue."
            )
        pending = PendingAnswer(name)
        work = partial(self._answer, pending, version_named, question, options)
        pending._future = self._worker.submit(work)
        pending._future.add_done_callback(lambda _: pending._line.put(None))
        self._pending = [*self._unfinished(), pending]
        return pending

    def claim(self, version_id: str) -> bool:
        """Keep a version loaded from now on; False where it is not loaded, or is about to go."""
        with self._lock:
            is_here = version_id in self._engine.loaded and version_id != self._leaving
            if is_here:
                self._kept |= {version_id}
            return is_here

    async def prepare(self, version_id: str) -> None:
        """Check a version's files, load it and make sure that it answers, at the next token.

        Raises:
            FactoryError: the version is damaged or does not fit the base model.
        """
        version = await asyncio.to_thread(store.get, self._workspace, version_id)
        loading = self._worker.submit(partial(self._engine.load, version), urgency=AT_ONCE)
        await asyncio.wrap_future(loading)

    def unload_all_but(self, kept: set[str]) -> None:
        """Before the next answer, free the versions that are neither kept nor asked for by id."""
        with self._lock:
            self._kept = frozenset(kept)
        is_busy = self._freeing is not None and not self._freeing.done()
        if self._unwanted() and not is_busy:
            self._freeing = self._worker.submit(self._free, urgency=BEFORE_THE_NEXT)
            self._freeing.add_done_callback(_log_failure)

    def cut_short(self) -> None:
        """End all answers now, finished or not."""
        for pending in self._unfinished():
            pending.cancel()

    def end(self) -> bool:
        """Cut short what is left and end the worker; False where its work does not end soon."""
        self.cut_short()
        return self._worker.stop()

    def _unfinished(self) -> list[PendingAnswer]:
        return [pending for pending in self._pending if not pending.is_over]

    def _unwanted(self) -> frozenset[str]:
        wanted = {pending.version_id or pending.name for pending in self._unfinished()}
        return self._engine.loaded - self._kept - wanted - {BASE_VERSION}

    def _free(self) -> None:
        """Runs on the worker."""
        for version_id in sorted(self._unwanted()):
            with self._lock:
                if version_id in self._kept:
                    continue
                self._leaving = version_id
            try:
                self._engine.unload(version_id)
            finally:
                self._leaving = ""

    def _answer(
        self,
        pending: PendingAnswer,
        version_named: Callable[[str], str],
        question: Question,
        options: Options,
    ) -> Answer:
        """Runs on the worker."""
        version_id = pending.version_id = version_named(pending.name)
        if version_id not in self._engine.loaded:
            self._engine.load(store.get(self._workspace, version_id))
        put, is_cut = pending._line.put, pending._line.is_cut

        def should_stop() -> bool:
            self._worker.run_urgent()
            return is_cut.is_set()

        return self._engine.generate(version_id, question, options, put, should_stop)


def _log_failure(done: Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()):
        logger.error("a version could not be unloaded", exc_info=error)
