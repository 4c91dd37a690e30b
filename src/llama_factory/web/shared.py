"""What many visitors look at is read once, and kept for as long as its files stand as they are."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from llama_factory.versions.workspace import Workspace
from llama_factory.web.live import stamp_of

SECONDS = 10.0
"""After which it is read again all the same: some of it depends on the time."""
OF_LOOP = ("begun", "releases", "inbox", "journal", "review", "feedback", "settings")
"""Topics on which it depends whether a round begins."""
OF_HEALTH = ("monitor", "releases", "journal")
"""Topics on which alerts depend."""
OF_VERSIONS = ("versions", "releases")
"""Topics on which the list of versions depends."""
T = TypeVar("T")


@dataclass(frozen=True)
class _Known:
    stamp: str
    when: float
    value: Any


class SharedReads:
    """Readings of one page's workspaces; several threads may ask.

    Args:
        clock: seconds; tests have their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[Path, str], _Known] = {}
        self._locks: dict[tuple[Path, str], threading.Lock] = {}

    def read(
        self, workspace: Workspace, name: str, topics: Sequence[str], read: Callable[[], T]
    ) -> T:
        """A value as it was read, where nothing of its topics changed since.

        Args:
            workspace: that is read.
            name: of the value; one name is always read in the same way.
            topics: see `stamp_of`.
            read: reads it; who else asks meanwhile waits for what comes of it.
        """
        key = workspace.folder, name
        with self._locks.setdefault(key, threading.Lock()):
            # Before the reading: what changes during it is read again.
            stamp, now = stamp_of(workspace, topics), self._clock()
            known = self._known.get(key)
            if known is None or known.stamp != stamp or now - known.when >= SECONDS:
                known = _Known(stamp, now, read())
                self._known[key] = known
            return cast("T", known.value)
