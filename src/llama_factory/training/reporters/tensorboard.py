"""TensorBoard events in the run's `runs` folder."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_factory.training.reporters import REPORTERS, Reporter, Sink


class _TensorBoardSink:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(f"train/{name}", value, step)


@REPORTERS.register("tensorboard")
class TensorBoard(Reporter):
    """`tensorboard --logdir OUTPUT/runs` shows the curves; nothing leaves the machine."""

    @contextmanager
    def open(self, folder: Path, *, done: int) -> Iterator[Sink]:
        """See `Reporter.open`."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(str(folder), purge_step=done + 1) as writer:
            yield _TensorBoardSink(writer)
