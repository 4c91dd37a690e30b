"""What many visitors look at is read once, and kept for as long as its files stand as they are."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from llama_factory.versions.workspace import Workspace
from llama_factory.web.live import stamp_of

SECONDS = 10.0
"""After which it is read again all the same: some of it depends on the time."""
LASTING = 300.0
"""The same of what depends on files alone."""
MOST = 100
"""Values that are kept; one more, and the oldest is forgotten."""
OF_LOOP = (
    *("begun", "releases", "waiting", "journal", "review", "feedback", "settings"),
)  # fmt: skip
"""Topics on which it depends whether a round begins."""
OF_HEALTH = ("monitor", "releases", "journal")
"""Topics on which alerts depend."""
OF_VERSIONS = ("versions", "releases")
"""Topics on which the list of versions depends."""
OF_EVENTS = ("journal", "versions", "releases", "review")
"""Topics on which the list of events depends: what the journal lacks is added when it is read."""
T = TypeVar("T")


@dataclass
class _Known:
    """A value, and whoever reads it now."""

    stamp: str = ""
    when: float = 0.0
    value: Any = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class SharedReads:
    """Readings of one page's workspaces; several threads may ask.

    Args:
        clock: seconds; tests have their own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[Path, str], _Known] = {}
        self._lock = threading.Lock()
        self._num_changes = 0

    def read(
        self,
        workspace: Workspace,
        name: str,
        topics: Sequence[str],
        read: Callable[[], T],
        *,
        seconds: float = SECONDS,
    ) -> T:
        """A value as it was read, where nothing of its topics changed since.

        Args:
            workspace: that is read.
            name: of the value; one name is always read in the same way.
            topics: see `stamp_of`.
            read: reads it; who else asks meanwhile waits for what comes of it.
            seconds: after which it is read again all the same.
        """
        known = self._entry((workspace.folder, name))
        with known.lock:
            # Before the reading: what changes during it is read again.
            stamp = f"{self._num_changes} {stamp_of(workspace, topics)}"
            now = self._clock()
            if known.stamp != stamp or now - known.when >= seconds:
                value = read()
                known.stamp, known.when, known.value = stamp, now, value
            return cast("T", known.value)

    def changed(self) -> None:
        """Read everything anew: somebody changed something, and wants to see it."""
        self._num_changes += 1

    def _entry(self, key: tuple[Path, str]) -> _Known:
        with self._lock:
            known = self._known.setdefault(key, _Known())
            if len(self._known) > MOST:
                del self._known[next(iter(self._known))]
            return known
