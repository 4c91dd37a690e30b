"""Runs found under a folder and how each of them stands, from their logs alone."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core.errors import ConfigError
from llama_factory.core.files import is_held
from llama_factory.training.monitor import TRAINER_LOG, is_written

COMPLETE = (
    "adapter_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "report.json",
)
"""One of these is written last: a folder that holds it is finished."""
NOT_SEARCHED = {"checkpoints", "data", "inbox", "runs", "node_modules", "__pycache__"}
IN_THE_MAKING = (".building", ".replacement")
"""Hidden folders with a run in them: of a round, and of one that will replace another."""
ROUND_LOCK = ".round.lock"
"""A workspace's own lock: a round goes on after its training, while it is tested."""


@dataclass(frozen=True)
class RunRow:
    """One run.

    Attributes:
        folder: where it writes.
        state: running, finished or stopped.
        step: updates done.
        num_steps: updates planned; None before the first one is done.
        loss: of the last update.
        eval_loss: the last one on held-out rows, where it is measured.
        seconds_since: age of its last sign of life.
    """

    folder: str
    state: str
    step: int
    num_steps: int | None
    loss: float | None
    eval_loss: float | None
    seconds_since: float


def find_runs(folder: Path) -> list[RunRow]:
    """Every run at or below a folder, the latest first.

    Raises:
        ConfigError: it is no folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Give one that holds runs or workspaces.")
    rows = [_row(log) for log in _logs(folder)]
    return sorted(rows, key=lambda row: row.seconds_since)


def _logs(folder: Path) -> Iterator[Path]:
    for here, below, names in os.walk(folder):
        below[:] = [name for name in below if name not in NOT_SEARCHED and not _is_hidden(name)]
        if TRAINER_LOG in names:
            yield Path(here) / TRAINER_LOG


def _is_hidden(name: str) -> bool:
    return name.startswith(".") and not name.endswith(IN_THE_MAKING)


def _row(log: Path) -> RunRow:
    rows = list(_lines(log))
    last = rows[-1] if rows else {}
    measured = [row["eval_loss"] for row in rows if "eval_loss" in row]
    return RunRow(
        folder=str(log.parent),
        state=_state(log),
        step=last.get("current_steps", 0),
        num_steps=last.get("total_steps"),
        loss=last.get("loss"),
        eval_loss=measured[-1] if measured else None,
        seconds_since=max(0.0, time.time() - log.stat().st_mtime),
    )


def _state(log: Path) -> str:
    round_lock = log.parent.parent.parent / ROUND_LOCK
    if is_written(log) or (log.parent.name == ".building" and is_held(round_lock)):
        return "running"
    return "finished" if any((log.parent / name).exists() for name in COMPLETE) else "stopped"


def _lines(log: Path) -> Iterator[dict[str, Any]]:
    """Whole lines: the last one may be half-written just now."""
    for line in log.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)
