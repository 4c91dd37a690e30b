"""Which files of the inbox are whole, found out by looking again and again.

A file counts when it was renamed into place, or when its size and time stood still. What it is, is
its content: a name or a time says nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.data.reading import Refused
from llama_factory.data.sources import inbox as inboxes


@dataclass(frozen=True)
class InboxView:
    """The inbox at one moment.

    Attributes:
        files: SHA-256 of the whole files by name.
        growing: names of files that are waited for.
        refused: what else lies there, with the reason.
        problem: why nothing can be seen at all; empty where it can.
        settles_in: seconds until a file that is waited for may count; None for none.
    """

    files: dict[str, str]
    growing: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    problem: str = ""
    settles_in: float | None = None


class InboxWatch:
    """Remembers what it saw of an inbox, so that files that stand still are known."""

    def __init__(
        self,
        inbox: Path,
        settle_seconds: float,
        *,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Watch a folder.

        Args:
            inbox: the folder.
            settle_seconds: how long a file must stand still.
            steady: a clock that nobody sets.
            wall: the clock that files are stamped by.
        """
        self.inbox = inbox
        self.settle_seconds = settle_seconds
        self._steady = steady
        self._wall = wall
        self._since: dict[str, tuple[files.Stamp, float]] = {}
        self._hashes: dict[files.Stamp, str] = {}
        self._unfinished: set[int] = set()

    def look(self) -> InboxView:
        """See what lies there now."""
        try:
            readable, refused = inboxes.candidates(self.inbox)
            unfinished = self._look_at_unfinished()
        except OSError as error:
            self._since.clear()
            return InboxView({}, problem=f"{self.inbox}: {error.strerror}")
        now, whole, left = self._steady(), dict[str, str](), dict[str, float]()
        seen: dict[str, tuple[files.Stamp, float]] = {}
        for path in readable:
            try:
                stamp = files.stamp(path.stat())
                seen[path.name] = stamp, self._still_since(path.name, stamp, now)
                wait = self.settle_seconds - (now - seen[path.name][1])
                if wait > 0:
                    left[path.name] = wait
                else:
                    whole[path.name] = self._hash(path, stamp)
            except FileNotFoundError:
                continue  # it left meanwhile
            except OSError as error:
                reason = f"it cannot be read: {error.strerror}."
                refused.append(Refused(inboxes.shown(path.name), 0, reason))
        self._since, self._unfinished = seen, unfinished
        known = {stamp for stamp, _ in seen.values()}
        self._hashes = {each: value for each, value in self._hashes.items() if each in known}
        growing = (*map(inboxes.shown, left),)
        return InboxView(whole, growing, tuple(refused), "", min(left.values(), default=None))

    def _still_since(self, name: str, stamp: files.Stamp, now: float) -> float:
        """Since when a file stands still, on the steady clock."""
        known = self._since.get(name)
        if known is not None and known[0] == stamp:
            return known[1]
        age = self._wall() - stamp[2] / 1e9
        is_old = age >= self.settle_seconds
        was_renamed = known is None and stamp[0] in self._unfinished
        return now - self.settle_seconds if is_old or was_renamed else now

    def _hash(self, path: Path, stamp: files.Stamp) -> str:
        if stamp not in self._hashes:
            self._hashes[stamp] = files.sha256(path)
        return self._hashes[stamp]

    def _look_at_unfinished(self) -> set[int]:
        """Numbers on the disk of files that wait for a rename."""
        found = set()
        for path in self.inbox.iterdir():
            if inboxes.is_unfinished(path.name):
                try:
                    found.add(path.lstat().st_ino)
                except FileNotFoundError:
                    continue
        return found
