"""How far the round in progress is, from what it writes. Looking changes nothing."""

import contextlib
import json
import math
import os
import signal
import socket
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.ownership import Owner, living_owner
from llama_factory.rounds.draft import read_plan
from llama_factory.training.monitor import TRAINER_LOG
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


def read_progress(workspace: Workspace, most: int) -> RoundProgress | None:
    """Read it; None where no round is in progress.

    Args:
        workspace: whose round.
        most: so many updates, the newest.
    """
    owner, plan = living_owner(workspace.lock), read_plan(workspace)
    if plan is None:
        return RoundProgress("", "", owner, "preparing", ()) if owner else None
    updates = read_updates(workspace.building / TRAINER_LOG, most)
    stage = _stage(workspace, updates)
    return RoundProgress(str(plan["id"]), str(plan["parent"]), owner, stage, updates)


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


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    is_update = isinstance(values, dict) and isinstance(values.get("current_steps"), int)
    loss = values.get("loss") if is_update else None
    is_number = loss is None or (isinstance(loss, int | float) and math.isfinite(loss))
    return values if is_update and is_number else None
