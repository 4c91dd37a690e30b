"""Waiting until something changes in a folder, or for as long as that may take."""

import threading
from datetime import timedelta
from pathlib import Path

import watchfiles


def wait_for_change(folder: Path, stop: threading.Event, limit: timedelta) -> None:
    """Wait until something in a folder changes; where it cannot be watched, as long as allowed."""
    milliseconds = max(50, round(1000 * limit.total_seconds()))
    try:
        changes = watchfiles.watch(
            folder,
            stop_event=stop,
            rust_timeout=milliseconds,
            yield_on_timeout=True,
            recursive=False,
            raise_interrupt=False,
            debounce=200,
        )
        next(iter(changes), None)
    except (OSError, RuntimeError):
        stop.wait(limit.total_seconds())
