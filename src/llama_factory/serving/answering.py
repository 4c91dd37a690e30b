"""Requests on their way to the engine: a bounded queue, answered one at a time on one thread."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

from llama_factory.core.types import BASE_VERSION
from llama_factory.serving.generation import Answer, Engine, Options, Question
from llama_factory.serving.refusals import QueueFullError, ShuttingDownError
from llama_factory.serving.worker import AT_ONCE, Worker
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace

PATIENCE_SECONDS = 1.0
"""How long a release waits for an answer in progress before new requests are given to it."""


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


@dataclass(frozen=True, eq=False)
class PendingAnswer:
    """The answer to one request, from its arrival to its end.

    Attributes:
        version_id: the version that answers, whatever is released meanwhile.
    """

    version_id: str
    _future: Future[Answer]
    _line: _Line

    @property
    def is_over(self) -> bool:
        """Whether it was answered, failed, or left the queue before its turn."""
        return self._future.done()

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

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the one being answered."""
        return max(0, len(self._unfinished()) - 1)

    def submit(self, version_id: str, question: Question, options: Options) -> PendingAnswer:
        """Queue a request for a version, which is kept loaded until it is answered.

        Raises:
            QueueFullError: `max_waiting` requests wait already.
        """
        if self.num_waiting >= self._max_waiting:
            raise QueueFullError(
                f"{self._max_waiting} requests are waiting already. Try again in a moment, or "
                "raise serving.max_queue."
            )
        line = _Line()
        work = partial(self._answer, version_id, question, options, line)
        future = self._worker.submit(work)
        future.add_done_callback(lambda _: line.put(None))
        pending = PendingAnswer(version_id, future, line)
        self._pending = [*self._unfinished(), pending]
        return pending

    async def prepare(self, version_id: str) -> None:
        """Check a version's files and load it, ahead of all requests that wait.

        A long answer in progress holds up the loading but not the release: after a moment the
        version counts as released, and whoever asks for it waits in the queue.

        Raises:
            FactoryError: the version is damaged or does not fit the base model.
        """
        version = await asyncio.to_thread(store.get, self._workspace, version_id)
        loading = self._worker.submit(partial(self._engine.load, version), urgency=AT_ONCE)
        with contextlib.suppress(TimeoutError):
            waited = asyncio.shield(asyncio.wrap_future(loading))
            await asyncio.wait_for(waited, PATIENCE_SECONDS)

    async def unload_all_but(self, kept: set[str]) -> None:
        """Free the versions that are neither kept nor answering a request."""
        busy = {pending.version_id for pending in self._unfinished()}
        for version_id in self._engine.loaded - kept - busy - {BASE_VERSION}:
            freeing = self._worker.submit(partial(self._engine.unload, version_id), urgency=AT_ONCE)
            await asyncio.wrap_future(freeing)

    def cut_short(self) -> None:
        """End all answers now, finished or not."""
        for pending in self._unfinished():
            pending.cancel()

    async def close(self) -> None:
        """Cut short what is left and end the worker."""
        self.cut_short()
        await asyncio.to_thread(self._worker.stop)

    def _unfinished(self) -> list[PendingAnswer]:
        return [pending for pending in self._pending if not pending.is_over]

    def _answer(self, version_id: str, question: Question, options: Options, line: _Line) -> Answer:
        """Runs on the worker."""
        if version_id not in self._engine.loaded:
            self._engine.load(store.get(self._workspace, version_id))
        return self._engine.generate(version_id, question, options, line.put, line.is_cut.is_set)
