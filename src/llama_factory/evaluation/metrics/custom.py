"""Custom: a metric of the user's own, one function `score(expected, answer)` in a Python file."""

import importlib.util
import reprlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from llama_factory.core.errors import ConfigError, suggest
from llama_factory.core.plugins import describe, line_of
from llama_factory.evaluation.metrics import METRICS, Metric

Function = Callable[[str, str], object]


@METRICS.register("custom")
class Custom(Metric):
    """A function in a file of your own: `custom: path/to/file.py`. The file is run as it is."""

    path: Path | None = None
    """Python file with `score(expected, answer)`, which returns a number from 0, worst, to 1."""

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return f"custom:{self.path.stem}" if self.path else "custom"

    def check(self) -> None:
        """See `Metric.check`."""
        self._function()

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`.

        Raises:
            ConfigError: the function fails, or returns no number from 0 to 1.
        """
        function, path = self._function()
        try:
            value = function(expected, answer)
        except Exception as error:
            call = f"score({reprlib.repr(expected)}, {reprlib.repr(answer)})"
            raise ConfigError(f"{line_of(path, error)}: {call}: {describe(error)}") from error
        if not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ConfigError(
                f"{path}: score({reprlib.repr(expected)}, {reprlib.repr(answer)}) returned "
                f"{reprlib.repr(value)}, and a score is a number from 0 (worst) to 1 (best)."
            )
        return float(value)

    def _function(self) -> tuple[Function, Path]:
        if self.path is None:
            raise ConfigError(
                "evaluation.metrics: 'custom' needs a file: `custom: path/to/file.py`, with a "
                "function score(expected, answer)."
            )
        if not self.path.is_file():
            raise ConfigError(f"evaluation.metrics: custom: {self.path} is no file.")
        path = self.path.resolve()
        return _load(path, path.stat().st_mtime_ns), path


@lru_cache(maxsize=16)
def _load(path: Path, changed: int) -> Function:
    """The function of a file as it was when it was last changed.

    Raises:
        ConfigError: the file fails, or has no such function.
    """
    spec = importlib.util.spec_from_file_location(f"custom_metric_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: a metric is a Python file, whose name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{line_of(path, error)}: {describe(error)}") from error
    function = getattr(module, "score", None)
    if not callable(function):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(
            f"{path}: there is no function score(expected, answer).{suggest('score', names)}"
        )
    return function
