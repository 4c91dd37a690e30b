"""Ctrl-C and SIGTERM as requests to stop at the next safe point; a second Ctrl-C stops at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TRY_AGAIN = 75
"""EX_TEMPFAIL of sysexits.h: the same command goes on when it is started again, on any machine."""
BY_SIGNAL = (
    TRY_AGAIN,
    *(128 + number for number in (signal.SIGINT, signal.SIGTERM)),
    *(-number for number in (signal.SIGINT, signal.SIGTERM)),
)
"""Exit codes of commands that were asked to stop and go on when they are begun again: they did not
fail."""


_SOURCES: list[Callable[[], int]] = []
"""What asks to stop besides signals, while `asked_by` lasts."""


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Work stopped because a signal asked for it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal.Signals(signal_number).name)
        self.number = int(signal_number)
        is_asked_to_leave = signal_number == signal.SIGTERM
        self.exit_code = TRY_AGAIN if is_asked_to_leave else 128 + signal_number


def raise_on_signals() -> None:
    """Make Ctrl-C and SIGTERM raise `Stopped` wherever nothing safer is arranged."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def stop_on_signals() -> threading.Event:
    """Set by Ctrl-C or SIGTERM from now on: for what waits and looks whether it has to end."""
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return stop


@contextmanager
def asked_by(source: Callable[[], int]) -> Iterator[None]:
    """While this lasts, something besides signals asks to stop: also outside the main thread.

    Args:
        source: gives the number of a signal that means the same, or 0. It is asked often.
    """
    _SOURCES.append(source)
    try:
        yield
    finally:
        _SOURCES.remove(source)


def _asked_besides() -> int:
    return next(filter(None, (source() for source in _SOURCES)), 0)


@contextmanager
def stopping_safely() -> Iterator[Callable[[], int]]:
    """Yields a function that gives the number of the signal that asked to stop, or 0.

    Outside the main thread, where signals do not arrive, only `asked_by` counts.

    Raises:
        Stopped: at once, when a second signal arrives.
    """
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        if asked:
            raise Stopped(number)
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield _asked_besides
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked[0] if asked else _asked_besides()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
