"""Connections that cost nothing while nothing is asked: time-outs, a limit, an accept that fails.

Uvicorn ends a connection that is idle between two requests. One that never asks, asks byte by byte
or does not read its answer is ended here.
"""

import asyncio
import contextlib
import errno
import logging
import resource
import time
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 30
"""How long a connection may be idle between two requests."""

HEADER_SECONDS = 15.0
"""How long the head of a request may take to arrive, from the connection's beginning or from the
end of the request before it."""

WRITE_SECONDS = 60.0
"""How long a client may leave its answer unread while more of it waits."""

MAX_CONNECTIONS = 1000
RESERVED_FILES = 100
"""Files that the program opens beside its connections."""

OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
COMPLAIN_SECONDS = 60.0


class Connection(H11Protocol):
    """One client's connection."""

    max_connections = MAX_CONNECTIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.idle_since = self.loop.time()
        self._asking: asyncio.TimerHandle | None = None
        self._reading: asyncio.TimerHandle | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no request of it is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`; where there are too many, the one that is idle longest goes."""
        super().connection_made(transport)
        self._limit_head()
        if len(self.connections) > self.max_connections:
            others = [each for each in self.connections if isinstance(each, Connection)]
            idle = [each for each in others if each.is_idle]
            min(idle, key=lambda each: each.idle_since).abandon()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop(self._asking)
        self._stop(self._reading)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        self._limit_head()

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        self.idle_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().pause_writing()
        self._stop(self._reading)
        self._reading = self.loop.call_later(WRITE_SECONDS, self.abandon)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        self._stop(self._reading)

    def abandon(self) -> None:
        """End it without a word, whatever was to be sent."""
        # Counted no more from now on: the loop closes it only after it has accepted others.
        self.connections.discard(self)
        self.transport.abort()

    def _limit_head(self) -> None:
        """Give the client some time for the head of its next request, however slowly it sends."""
        if not self.is_idle:
            self._stop(self._asking)
            self._asking = None
        elif self._asking is None:
            self._asking = self.loop.call_later(HEADER_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._asking = None
        if self.is_idle:
            self.abandon()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


def raise_file_limit() -> int:
    """Let this process open as many files as it may; returns how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft - RESERVED_FILES))


class Complaints:
    """Says once a minute that no connection can be accepted, where asyncio says it endlessly."""

    def __init__(self) -> None:
        self._last = -COMPLAIN_SECONDS

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """See `asyncio.loop.set_exception_handler`."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in OUT_OF_FILES:
            loop.default_exception_handler(context)
            return
        if time.monotonic() - self._last >= COMPLAIN_SECONDS:
            self._last = time.monotonic()
            logger.error("no connection can be accepted (%s); raise the limit of open files", error)
