"""Locks that have one owner, who can be named: process, host, since when, still alive.

The operating system's lock decides on one machine: a killed owner holds nothing. Where several
machines share a folder without sharing such locks, the owner's heartbeat decides: whoever comes
second watches whether it goes on. What a copied folder holds of another machine's owner does not
go on, so it is taken over. No clock is compared with another machine's.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import Timeout

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.times import now

BEAT_SECONDS = 5.0
WAIT = "Wait until it has finished, then try again."
PATIENCE = 3
"""Beats that may fail to come before an owner on another machine counts as dead."""


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        pid: its process.
        host: its machine.
        started: UTC time, ISO 8601.
        what: it does, as a phrase: "running a round here".
        beat: rises as long as it lives.
    """

    pid: int
    host: str
    started: str
    what: str
    beat: int = 0

    @property
    def sentence(self) -> str:
        """Who it is, for messages."""
        return f"process {self.pid} is already {self.what} (on {self.host}, since {self.started})"


def owner_file(lock: Path) -> Path:
    """Where the owner of a lock names itself."""
    return lock.with_suffix(".holder")


def read_owner(lock: Path) -> Owner | None:
    """Who named itself last; None where nobody did, or not in a readable way."""
    try:
        return Owner(**json.loads(owner_file(lock).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def living_owner(lock: Path) -> Owner | None:
    """Who holds a lock on this machine now; looking changes nothing."""
    return read_owner(lock) if files.is_held(lock) else None


@contextlib.contextmanager
def owned(lock: Path, *, what: str, beat_seconds: float = BEAT_SECONDS) -> Iterator[None]:
    """Hold a lock as its one owner; a dead owner's is taken over, a living one's never.

    Args:
        lock: the lock file.
        what: is done meanwhile, as a phrase.
        beat_seconds: how often a sign of life is given.

    Raises:
        VersionError: somebody alive holds it; the message names who.
    """
    me = Owner(os.getpid(), socket.gethostname(), now(), what)
    try:
        taken = files.take_lock(lock, what=what, seconds=0)
    except Timeout:
        raise _refusal(lock, read_owner(lock), what) from None
    try:
        _require_dead(lock, me, beat_seconds)
        with _beating(lock, me, beat_seconds):
            yield
    finally:
        taken.release()


@contextlib.contextmanager
def _beating(lock: Path, me: Owner, seconds: float) -> Iterator[None]:
    """Give signs of life meanwhile."""
    stop = threading.Event()
    _beat(lock, me)
    beating = threading.Thread(target=_go_on, args=(lock, me, seconds, stop), daemon=True)
    beating.start()
    try:
        yield
    finally:
        stop.set()
        beating.join()
        owner_file(lock).unlink(missing_ok=True)


def _refusal(lock: Path, owner: Owner | None, what: str) -> VersionError:
    who = owner.sentence if owner else f"another process is already {what}"
    return VersionError(f"{lock.parent}: {who}. {WAIT}")


def _require_dead(lock: Path, me: Owner, beat_seconds: float) -> None:
    """Refuse where the owner that is named lives on another machine."""
    known = read_owner(lock)
    if known is None or known.host == me.host:
        return
    until = time.monotonic() + PATIENCE * beat_seconds
    while time.monotonic() < until:
        time.sleep(beat_seconds / 4)
        current = read_owner(lock)
        if current is not None and current != known:
            raise _refusal(lock, current, me.what)


def _go_on(lock: Path, me: Owner, seconds: float, stop: threading.Event) -> None:
    while not stop.wait(seconds):
        me = replace(me, beat=me.beat + 1)
        _beat(lock, me)


def _beat(lock: Path, me: Owner) -> None:
    """A full disk keeps nobody from working: the lock itself needs no room."""
    path = owner_file(lock)
    temporary = files.temporary_beside(path)
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(json.dumps(asdict(me)), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
