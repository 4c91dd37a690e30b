"""The server's log on standard error: releases, requests, and what went wrong."""

import logging
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDERR = 2
MAX_LINES = 1000
"""Lines that may wait to be written; more are dropped."""

END_SECONDS = 1.0


@contextmanager
def shown() -> Iterator[None]:
    """Show what this package logs meanwhile, unless the program has arranged it otherwise."""
    package = logging.getLogger("llama_factory")
    if package.handlers or logging.getLogger().handlers:
        yield
        return
    lines, level = _Lines(), package.level
    package.addHandler(lines)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(lines)
        package.setLevel(level)
        lines.end()


class _Lines(logging.Handler):
    """Writes on a thread of its own: where nobody reads what is written, answers go on.

    The descriptor is written to directly: a stream's lock, held by a thread that waits for a
    reader, would stop the program from ending.
    """

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        self._waiting: queue.Queue[str | None] = queue.Queue(MAX_LINES)
        self._num_dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        try:
            self._waiting.put_nowait(self.format(record))
        except queue.Full:
            self._num_dropped += 1

    def end(self) -> None:
        """Write what waits, as far as anybody reads it."""
        if not self._waiting.full():
            self._waiting.put_nowait(None)
            self._thread.join(END_SECONDS)

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            if self._num_dropped:
                line += f"\n({self._num_dropped} lines were dropped: they were not read in time)"
                self._num_dropped = 0
            with suppress(OSError):  # closed
                os.write(STDERR, f"{line}\n".encode("utf-8", "backslashreplace"))
