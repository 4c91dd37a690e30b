"""Keeps an engine in another process up: starts it, asks its health, starts it again."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from llama_factory.core.errors import FactoryError
from llama_factory.serving.errors import EngineDownError
from llama_factory.serving.remote.child import Child

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before another start; doubled after each that failed."""
STEADY_SECONDS = 60.0
"""An engine that was up for so long starts again without a longer pause."""
PROBE_TIMEOUT = 10.0
MOST_RETRY_SECONDS = 60
"""Longest pause that clients are told to make."""
MISSES = 2
"""So many probes in a row without an answer mean that it hangs."""


class Activity:
    """Whether tokens come, over all answers in progress."""

    def __init__(self, silence_seconds: float) -> None:
        """Nothing is in progress.

        Args:
            silence_seconds: after so long without a token for anybody, the engine hangs.
        """
        self._silence_seconds = silence_seconds
        self.renew()

    def renew(self) -> None:
        """Another engine begins."""
        self._num_answers, self._is_stuck = 0, False
        self._waiting_since, self._last_token = 0.0, -math.inf

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """One more answer is in progress meanwhile."""
        if not self._num_answers:
            self._waiting_since = time.monotonic()
        self._num_answers += 1
        try:
            yield
        except EngineDownError:
            self._is_stuck = self.is_silent(0.9)  # it was given up a moment before
            raise
        finally:
            self._num_answers = max(0, self._num_answers - 1)

    def note(self) -> None:
        """A token came."""
        self._waiting_since = self._last_token = time.monotonic()
        self._is_stuck = False

    def is_silent(self, fraction: float = 1.0) -> bool:
        """Whether answers wait and no token came for that part of the limit."""
        seconds = time.monotonic() - self._waiting_since
        waits = self._num_answers > 0 and seconds > fraction * self._silence_seconds
        return waits or self._is_stuck

    def is_lively(self, seconds: float) -> bool:
        """Whether a token came so lately."""
        return time.monotonic() - self._last_token < seconds


class Watch:
    """Whether an engine is up, and the task that keeps it so.

    Attributes:
        unavailable: why nothing can be answered now, as clients may know it; empty where it can.
    """

    def __init__(
        self,
        name: str,
        running: Callable[[], AbstractAsyncContextManager[Child | None]],
        probe: Callable[[float], Awaitable[None]],
        prepare: Callable[[], Awaitable[None]],
        activity: Activity,
        times: "Times",
    ) -> None:
        """Nothing is started yet.

        Args:
            name: of the engine, for messages.
            running: starts the process, and ends it; gives None where somebody else does.
            probe: asks the health within so many seconds.
            prepare: makes all versions that are needed ready and proves them.
            activity: of the answers.
            times: limits.
        """
        self.unavailable = f"the engine ({name}) is not started yet."
        self._name, self._why = name, ""
        self._was_up, self._begun, self._start_seconds = False, 0.0, 1.0
        self._running, self._probe, self._prepare = running, probe, prepare
        self._activity, self._times = activity, times
        self._task: asyncio.Task[None] | None = None
        self._attempt: asyncio.Future[str] | None = None

    async def up(self) -> None:
        """Wait until it is up, or until the try to start it that is under way has failed.

        Raises:
            EngineDownError: it has failed; another try follows by itself.
        """
        if self._task is None:
            self._begin()
            self._task = asyncio.create_task(self._keep_up())
        if self.unavailable and self._attempt is not None:
            await asyncio.shield(self._attempt)
        if self.unavailable and not self._was_up:  # whoever starts the server reads it
            raise EngineDownError(f"{self._name} cannot be used: {self._why}")
        self.require()

    def require(self) -> None:
        """Refuse where it is not up.

        Raises:
            EngineDownError: it is not; with the seconds after which it may be.
        """
        if self.unavailable:
            error = EngineDownError(f"{self.unavailable} Ask again later.")
            left = self._start_seconds - (time.monotonic() - self._begun)
            error.retry_seconds = max(1, min(MOST_RETRY_SECONDS, math.ceil(left)))
            raise error

    def suspect(self) -> None:
        """Somebody saw it fail: look at it now."""
        self._suspected.set()

    async def close(self) -> None:
        """End the engine and the watching."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.unavailable = f"the engine ({self._name}) was stopped."

    def _begin(self) -> None:
        self._attempt = asyncio.get_running_loop().create_future()
        self._suspected = asyncio.Event()

    def _decide(self) -> None:
        """Whoever waits for the try that is under way goes on."""
        if self._attempt is not None and not self._attempt.done():
            self._attempt.set_result("")

    async def _keep_up(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                why = await self._one_run()
            except FactoryError as error:
                why = str(error)
            except Exception as error:  # whatever it is, the engine is started again
                logger.exception("%s cannot be watched", self._name)
                why = repr(error)
            self._why = why
            self.unavailable = f"the engine ({self._name}) is being started again."
            logger.error("%s is being started again: %s", self._name, why)
            self._decide()
            if time.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            self._begin()

    async def _one_run(self) -> str:
        """Start it, make it ready, and stay until it is gone; why it is."""
        self._begun = time.monotonic()
        async with self._running() as child:
            await self._wait_for_health(child)
            await self._prepare()
            self._activity.renew()
            self.unavailable, self._was_up = "", True
            self._start_seconds = time.monotonic() - self._begun
            self._decide()
            logger.info("%s is up", self._name)
            why = await self._stay(child)
            self._begun = time.monotonic()
            self.unavailable = f"the engine ({self._name}) is down."
            if child is not None:
                await child.kill()
            return why

    async def _wait_for_health(self, child: Child | None) -> None:
        end = time.monotonic() + self._times.start_seconds
        while True:
            try:
                await self._probe(PROBE_TIMEOUT)
                return
            except FactoryError as error:
                if child is not None and not child.is_running:
                    raise EngineDownError(await child.ended()) from error
                if time.monotonic() > end:
                    raise EngineDownError(
                        f"it was not ready after {self._times.start_seconds:.0f} s"
                    ) from error
                if child is None:
                    raise
            await asyncio.sleep(min(0.2, self._times.probe_seconds))

    async def _stay(self, child: Child | None) -> str:
        misses = 0
        ending = asyncio.create_task(child.ended()) if child else None
        try:
            while misses < MISSES:
                if await self._pause(ending, misses):
                    return await ending if ending else ""
                if self._activity.is_silent():
                    return "answers wait and no token comes (serving.engine.silence_seconds)"
                try:
                    await self._probe(min(PROBE_TIMEOUT, 2 * self._times.probe_seconds))
                    misses = 0
                except FactoryError as error:
                    # One that is busy may answer late; its tokens show that it lives.
                    is_busy = self._activity.is_lively(self._times.probe_seconds)
                    misses += not is_busy
                    why = str(error)
            return why
        finally:
            if ending:
                ending.cancel()

    async def _pause(self, ending: "asyncio.Task[str] | None", misses: int) -> bool:
        """Wait until the next probe is due; whether the process ended meanwhile."""
        suspecting = asyncio.create_task(self._suspected.wait())
        waited = {suspecting, *([ending] if ending else [])}
        seconds = self._times.probe_seconds if not misses else min(1.0, self._times.probe_seconds)
        try:
            await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            suspecting.cancel()
        self._suspected.clear()
        return ending is not None and ending.done()


@dataclass(frozen=True)
class Times:
    """In seconds: the limit of a start, and the pause between probes."""

    start_seconds: float
    probe_seconds: float
