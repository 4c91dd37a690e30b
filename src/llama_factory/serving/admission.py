"""How many answers are computed at once, who waits, and whose turn is next."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from llama_factory.serving.errors import QueueFullError

MAX_RETRY_SECONDS = 60
"""The longest wait that a refused client is advised."""

FORGETTING = 0.1
"""Weight of the latest answer in the running mean of their seconds."""


@dataclass(eq=False)
class _Waiting:
    num: int
    turn: "asyncio.Future[None]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Admission:
    """Seats before the engine. Callers take turns; each caller's own requests keep their order."""

    def __init__(self, max_running: int, max_waiting: int, max_waiting_per_key: int) -> None:
        """See `ServingSettings`: `max_running`, `max_queue`, `max_queue_per_key`."""
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._max_waiting_per_key = max_waiting_per_key
        self._waiting: dict[str, deque[_Waiting]] = {}
        self._mean_seconds = 1.0
        self.num_running = 0

    @property
    def num_waiting(self) -> int:
        """Requests whose turn has not come."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def seats(self, key: str, num: int) -> AsyncIterator[int]:
        """Wait for a turn, and hold seats for as long as the answers take.

        Args:
            key: whose turn; requests of other keys are not held up by many of one.
            num: how many answers at once are wished for.

        Yields:
            How many may be computed at once.

        Raises:
            QueueFullError: as many requests wait as may.
        """
        num = min(num, self._max_running)
        if self._waiting or self.num_running + num > self._max_running:
            await self._wait(key, num)
        else:
            self.num_running += num
        began = time.monotonic()
        try:
            yield num
        finally:
            taken = time.monotonic() - began
            self._mean_seconds += FORGETTING * (taken - self._mean_seconds)
            self._leave(num)

    async def _wait(self, key: str, num: int) -> None:
        if self.num_waiting >= self._max_waiting:
            raise self._full(f"{self._max_waiting} requests are waiting already", "max_queue")
        if key and len(self._waiting.get(key, ())) >= self._max_waiting_per_key:
            own = f"{self._max_waiting_per_key} requests of key '{key}' are waiting already"
            raise self._full(own, "max_queue_per_key")
        waiting = _Waiting(num)
        self._waiting.setdefault(key, deque()).append(waiting)
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():
                self._leave(num)  # the turn came while the client left
            else:
                self._withdraw(key, waiting)
            raise

    def _withdraw(self, key: str, waiting: _Waiting) -> None:
        self._waiting[key].remove(waiting)
        if not self._waiting[key]:
            del self._waiting[key]
        self._admit()

    def _leave(self, num: int) -> None:
        self.num_running -= num
        self._admit()

    def _admit(self) -> None:
        """Give free seats to the caller whose turn it is, who then goes to the end of the line."""
        while self._waiting:
            key = next(iter(self._waiting))
            line = self._waiting[key]
            if self.num_running + line[0].num > self._max_running:
                return
            waiting = line.popleft()
            del self._waiting[key]
            if line:
                self._waiting[key] = line
            self.num_running += waiting.num
            waiting.turn.set_result(None)

    def _full(self, what: str, setting: str) -> QueueFullError:
        error = QueueFullError(f"{what}. Try again in a moment, or raise serving.{setting}.")
        rounds = (self.num_waiting + 1) / self._max_running
        error.retry_seconds = min(MAX_RETRY_SECONDS, math.ceil(rounds * self._mean_seconds) or 1)
        return error
