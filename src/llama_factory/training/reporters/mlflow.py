"""MLflow. Without MLFLOW_TRACKING_URI it writes to files on this machine."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llama_factory.training.reporters import REPORTERS, Reporter, Sink, require


class _MlflowSink:
    def __init__(self, library: Any) -> None:
        self._library = library

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._library.log_metrics(dict(numbers), step=step)


@REPORTERS.register("mlflow")
class Mlflow(Reporter):
    """MLflow; the server comes from its own environment variables."""

    experiment: str = "llama-factory"
    """The experiment that the run is shown under."""
    run_name: str | None = None
    """Shown instead of a random name."""

    def check(self) -> None:
        """See `Reporter.check`."""
        require("mlflow")

    @contextmanager
    def open(self, folder: Path, *, done: int) -> Iterator[Sink]:
        """See `Reporter.open`."""
        self.check()
        mlflow: Any = importlib.import_module("mlflow")  # an extra: types are not at hand

        mlflow.set_experiment(self.experiment)
        with mlflow.start_run(run_name=self.run_name):
            yield _MlflowSink(mlflow)
