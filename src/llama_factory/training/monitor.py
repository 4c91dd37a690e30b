"""The numbers of a run, as TensorBoard events and as JSON lines."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llama_factory.core import files


class Monitor:
    """Writes one line of numbers an update; a resumed run goes on where its checkpoint stands."""

    def __init__(self, metrics: IO[str], events: Any) -> None:
        self._metrics = metrics
        self._events = events

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the numbers of update `step`, counted from 1."""
        self._metrics.write(json.dumps({"step": step, **numbers}) + "\n")
        self._metrics.flush()
        for name, value in numbers.items():
            self._events.add_scalar(f"train/{name}", value, step)


@contextmanager
def monitored(metrics: Path, events: Path, *, done: int) -> Iterator[Monitor]:
    """Open both logs and drop what an interrupted run wrote after its last checkpoint.

    Args:
        metrics: JSON lines file.
        events: TensorBoard folder.
        done: updates that the checkpoint holds.
    """
    from torch.utils.tensorboard import SummaryWriter

    kept = [row for row in _intact_lines(metrics) if row["step"] <= done]
    files.write_jsonl(metrics, kept)
    with SummaryWriter(str(events), purge_step=done + 1) as writer, metrics.open("a") as file:
        yield Monitor(file, writer)


def _intact_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Rows up to the first broken one: a kill may have cut the last line."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return
