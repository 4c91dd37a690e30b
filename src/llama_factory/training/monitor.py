"""The numbers of a run: JSON lines, reporters, and what looks wrong in them."""

import contextlib
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import IO, Any

from filelock import FileLock, Timeout

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.training.reporters import Reporter, Sink

TRAINER_LOG = "trainer_log.jsonl"
"""LLaMA-Factory's name for the course of a run; its web page and others read it."""
WINDOW = 50
"""Updates whose norms are the measure."""
FEWEST = 8
"""Norms whose median is the usual one."""
EARLY = 10
"""How much higher a spike must be before there are so many: the first norms differ anyway."""
SHARE, MOST_UPDATES = 8, 10
"""The beginning and the end of a run are this part of its updates each, at most so many."""
LOSS_RISE = 1.0
"""A loss that ended higher than its beginning by this, and by more than that was, has diverged."""
NORM_FACTOR = 100.0
"""Gradients that ended so many times as long as they began have exploded."""


@dataclass(frozen=True)
class TrainingFolders:
    """Where a run writes.

    Attributes:
        checkpoints: what an interrupted run goes on from.
        metrics: JSON lines, one an update; TRAINER_LOG lies beside it.
        events: TensorBoard.
        tokens: rows as tokens, kept for the next run.
        resume: a checkpoint, or a folder of them, to go on from; true: there must be one of this
            run; false: none is looked for; None: one that is there is gone on with.
        states: of rows behind frozen layers, kept for the next run; None: nowhere.
    """

    checkpoints: Path
    metrics: Path
    events: Path
    tokens: Path
    resume: Path | bool | None = None
    states: Path | None = None


@dataclass(frozen=True)
class Progressed:
    """How far a run is.

    Attributes:
        step: updates done.
        num_steps: updates planned.
        epochs_per_step: passes over the new rows in one update.
        seconds: spent so far.
        num_tokens: seen so far, without padding.
    """

    step: int
    num_steps: int
    epochs_per_step: float
    seconds: float
    num_tokens: int

    def to_trainer_log(self) -> dict[str, Any]:
        """In LLaMA-Factory's terms."""
        left = self.seconds / self.step * (self.num_steps - self.step)
        return {
            "current_steps": self.step,
            "total_steps": self.num_steps,
            "epoch": round(self.step * self.epochs_per_step, 4),
            "percentage": round(100 * self.step / self.num_steps, 2),
            "elapsed_time": str(timedelta(seconds=int(self.seconds))),
            "remaining_time": str(timedelta(seconds=int(left))),
            "throughput": round(self.num_tokens / self.seconds, 2) if self.seconds else 0.0,
            "total_tokens": self.num_tokens,
        }


class Monitor:
    """Writes the numbers of every update; a resumed run goes on where its checkpoint stands."""

    def __init__(self, metrics: IO[str], log: IO[str], sinks: Sequence[Sink]) -> None:
        self._metrics = metrics
        self._log = log
        self._sinks = sinks

    def record(self, position: Progressed, numbers: Mapping[str, float]) -> None:
        """Record the numbers of the update that led to `position`."""
        _write(self._metrics, {"step": position.step, **numbers})
        renamed = {("lr" if name == "learning_rate" else name): v for name, v in numbers.items()}
        shown = {name: value if math.isfinite(value) else None for name, value in renamed.items()}
        _write(self._log, position.to_trainer_log() | shown)
        for sink in self._sinks:
            sink.log(position.step, numbers)


@contextlib.contextmanager
def monitored(
    folders: TrainingFolders, reporters: Sequence[Reporter], *, done: int
) -> Iterator[Monitor]:
    """Open all logs and drop what an interrupted run wrote after its last checkpoint.

    Raises:
        VersionError: another process writes them.
    """
    log = folders.metrics.with_name(TRAINER_LOG)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_writer(log))
        _forget(folders.metrics, "step", done)
        _forget(log, "current_steps", done)
        sinks = [stack.enter_context(each.open(folders.events, done=done)) for each in reporters]
        metrics_file = stack.enter_context(folders.metrics.open("a"))
        yield Monitor(metrics_file, stack.enter_context(log.open("a")), sinks)


def read_metrics(metrics: Path, done: int) -> list[dict[str, float]]:
    """The numbers of the first `done` updates of a run."""
    return [row for row in _intact_lines(metrics) if row["step"] <= done]


def is_written(log: Path) -> bool:
    """Whether a living process writes this log."""
    return files.is_held(_lock_file(log))


@contextlib.contextmanager
def _only_writer(log: Path) -> Iterator[None]:
    log.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_file(log))
    try:
        lock.acquire(timeout=files.LOOK_SECONDS, poll_interval=0.05)
    except Timeout:
        raise VersionError(
            f"{log.parent}: another process trains into this folder. Wait for it, or give another "
            "folder."
        ) from None
    try:
        yield
    finally:
        _lock_file(log).unlink(missing_ok=True)
        lock.release()


def _lock_file(log: Path) -> Path:
    return log.with_name(f".{log.name}.lock")


def _write(file: IO[str], row: Mapping[str, Any]) -> None:
    file.write(json.dumps(row) + "\n")
    file.flush()


def _forget(path: Path, key: str, done: int) -> None:
    files.write_jsonl(path, [row for row in _intact_lines(path) if row[key] <= done])


def _intact_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows up to the first broken one: a kill may have cut the last line."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


class SpikeWatch:
    """Compares each gradient norm with the median of the last ones.

    Args:
        factor: a spike is above this many medians.
        norms: of earlier updates, when a run goes on.
    """

    def __init__(self, factor: float, norms: Iterable[float] = ()) -> None:
        self._factor = factor
        self._norms = deque(norms, maxlen=WINDOW)

    def see(self, norm: float) -> float | None:
        """Take the next finite norm; returns how many medians it is if it is a spike."""
        usual = median(self._norms) if self._norms else 0.0
        most = self._factor * (1 if len(self._norms) >= FEWEST else EARLY)
        self._norms.append(norm)
        return norm / usual if usual and norm > most * usual else None


def divergence(rows: Sequence[Mapping[str, float]]) -> str:
    """What is wrong with the course of a run, in words; empty where nothing is.

    A run that ended far above its beginning began with better weights than it ended with.

    Args:
        rows: `loss` and `gradient_norm` of every update.
    """
    losses, norms = (_finite(rows, name) for name in ("loss", "gradient_norm"))
    findings = []
    if len(losses) > 1:
        begin, end = _ends(losses)
        if end - begin > max(LOSS_RISE, abs(begin)):
            findings.append(
                f"the loss ended at {end:.3g}, far above its beginning ({begin:.3g}; highest "
                f"{max(losses):.3g})"
            )
    if len(norms) > 1:
        begin, end = _ends(norms)
        if begin and end > NORM_FACTOR * begin:
            findings.append(f"gradients grew to {end / begin:.0f} times their length")
    if not findings:
        return ""
    return (
        f"The run diverged: {' and '.join(findings)}. The model is likely worse than before. Lower "
        "training.learning_rate, or leave max_grad_norm at 1."
    )


def _finite(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [row[name] for row in rows if math.isfinite(row.get(name, math.nan))]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    """The usual value at the beginning, and at the end."""
    size = min(MOST_UPDATES, max(1, len(values) // SHARE))
    return median(values[:size]), median(values[-size:])
