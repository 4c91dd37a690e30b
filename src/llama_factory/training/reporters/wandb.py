"""Weights & Biases. `WANDB_MODE=offline` keeps the numbers on this machine."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_factory.training.reporters import REPORTERS, Reporter, Sink, require


class _WandbSink:
    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log({f"train/{name}": value for name, value in numbers.items()}, step=step)


@REPORTERS.register("wandb")
class Wandb(Reporter):
    """Weights & Biases; its account and mode come from its own environment variables."""

    project: str = "llama-factory"
    """The project that the run is shown under."""
    run_name: str | None = None
    """Shown instead of a random name."""

    def check(self) -> None:
        """See `Reporter.check`."""
        require("wandb")

    @contextmanager
    def open(self, folder: Path, *, done: int) -> Iterator[Sink]:
        """See `Reporter.open`."""
        self.check()
        wandb: Any = importlib.import_module("wandb")  # an extra: types are not at hand

        folder.mkdir(parents=True, exist_ok=True)
        with wandb.init(project=self.project, name=self.run_name, dir=str(folder)) as run:
            yield _WandbSink(run)
