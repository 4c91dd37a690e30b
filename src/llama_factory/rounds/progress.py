"""How far the round in progress is, from what it writes. Looking changes nothing."""

import contextlib
import json
import math
import os
import signal
import socket
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from llama_factory.core import files
from llama_factory.core.ownership import Owner, living_owner
from llama_factory.rounds.draft import read_plan
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions.store import PLAN
from llama_factory.versions.version import REPORT
from llama_factory.versions.workspace import Workspace

TAIL_BYTES = 4_000_000
"""Of the log of updates so much of the end is read."""


@dataclass(frozen=True)
class RoundProgress:
    """A round in progress.

    Attributes:
        id: of the version that it becomes.
        parent: that it teaches.
        owner: the process that works on it; None where it was interrupted.
        stage: `preparing`, `training`, `testing` or `finishing`.
        updates: numbers of the updates so far, in LLaMA-Factory's terms (`current_steps`, `loss`,
            `lr`, `remaining_time`), oldest first.
    """

    id: str
    parent: str
    owner: Owner | None
    stage: str
    updates: tuple[dict[str, Any], ...]


class RoundView:
    """Looks at the round in progress again and again; only what changed is read anew.

    Args:
        workspace: whose round.
        most: so many updates, the newest.
    """

    def __init__(self, workspace: Workspace, most: int) -> None:
        self._workspace = workspace
        self._most = most
        self._log = self._new_log()
        self._known: tuple[object, dict[str, Any] | None] = (None, None)

    def progress(self) -> RoundProgress | None:
        """How far it is; None where no round is in progress."""
        owner, plan = living_owner(self._workspace.lock), self._plan()
        if plan is None:
            return RoundProgress("", "", owner, "preparing", ()) if owner else None
        updates = self._log.read()
        stage = _stage(self._workspace, updates)
        return RoundProgress(str(plan["id"]), str(plan["parent"]), owner, stage, updates)

    def _plan(self) -> dict[str, Any] | None:
        space = self._workspace
        state = [files.stamp_of(p) for p in (space.building / PLAN, space.releases, space.versions)]
        if self._known[0] != state:
            self._known, self._log = (state, read_plan(space)), self._new_log()
        return self._known[1]

    def _new_log(self) -> "UpdateLog":
        return UpdateLog(self._workspace.building / TRAINER_LOG, self._most)


def stop(workspace: Workspace) -> bool:
    """Ask the process of the round to stop at a safe point; False where none is on this machine."""
    owner = living_owner(workspace.lock)
    if owner is None or owner.host != socket.gethostname():
        return False
    with contextlib.suppress(ProcessLookupError):  # it has ended just now
        os.kill(owner.pid, signal.SIGTERM)
    return True


def _stage(workspace: Workspace, updates: tuple[dict[str, Any], ...]) -> str:
    if (workspace.building / REPORT).exists():
        return "finishing"
    if not updates:
        return "preparing"
    newest = updates[-1]
    is_done = newest.get("current_steps") == newest.get("total_steps")
    return "testing" if is_done else "training"


def read_updates(log: Path, most: int) -> tuple[dict[str, Any], ...]:
    """Numbers of the newest updates in a log, oldest first; none where it cannot be read."""
    try:
        lines = list(files.last_lines(log, TAIL_BYTES))
    except OSError:
        return ()
    newest = filter(None, map(_parsed, reversed(lines)))
    return tuple(islice(newest, most))[::-1]


class UpdateLog:
    """A log of updates that is read again and again: what was parsed once is kept.

    Args:
        log: the file.
        most: so many updates are kept, the newest.
    """

    def __init__(self, log: Path, most: int) -> None:
        self._log = log
        self._file = 0
        self._place = 0
        self._newest: deque[dict[str, Any]] = deque(maxlen=most)

    def read(self) -> tuple[dict[str, Any], ...]:
        """See `read_updates`. A line that is not at its end yet is read the next time."""
        try:
            with self._log.open("rb") as file:
                self._read_on(file)
        except OSError:
            self._forget(0)
        return tuple(self._newest)

    def _read_on(self, file: BinaryIO) -> None:
        state = os.fstat(file.fileno())
        if state.st_ino != self._file or state.st_size < self._place:
            self._forget(state.st_ino)
        if state.st_size - self._place > TAIL_BYTES:
            self._newest.clear()
            file.seek(state.st_size - TAIL_BYTES)
            file.readline()  # the rest of a line
            self._place = file.tell()
        file.seek(self._place)
        written, end, _ = file.read().rpartition(b"\n")
        self._place += len(written) + len(end)
        self._newest.extend(filter(None, map(_parsed, written.splitlines())))

    def _forget(self, file: int) -> None:
        self._file, self._place = file, 0
        self._newest.clear()


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    is_update = isinstance(values, dict) and isinstance(values.get("current_steps"), int)
    loss = values.get("loss") if is_update else None
    is_number = loss is None or (isinstance(loss, int | float) and math.isfinite(loss))
    return values if is_update and is_number else None
