"""Tasks of EleutherAI's lm-evaluation-harness, https://github.com/EleutherAI/lm-evaluation-harness.

Only where that library is installed and the tasks' data are on this machine: nothing is fetched.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field

from llama_factory.core.errors import ConfigError, suggest
from llama_factory.core.types import Task
from llama_factory.evaluation.marks import TaskResult
from llama_factory.evaluation.statistics import Estimate, Z
from llama_factory.evaluation.suites import SUITES, Bench, Suite

OFFLINE = ("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE")


@SUITES.register("harness")
class Harness(Suite):
    """Scores of the harness's own tasks."""

    tasks: list[str] = Field(min_length=1)
    """Names of tasks, such as `hellaswag` or `ceval-valid`."""
    folder: Path | None = None
    """Folder with task files of your own, in the harness's format. Empty: its own tasks only."""
    number: int | None = Field(None, ge=1)
    """Most rows of each task. Empty: all of them."""

    def check(self, tasks: tuple[Task, ...]) -> None:
        """See `Suite.check`."""
        if find_spec("lm_eval") is None:
            raise ConfigError(
                f"suite 'harness': the tasks {', '.join(self.tasks)} need the package lm-eval, "
                "which is not installed. Install it with `pip install lm-eval`, or leave this "
                "suite out."
            )
        known = self._manager().all_tasks
        for name in self.tasks:
            if name not in known:
                raise ConfigError(
                    f"suite 'harness': lm-eval has no task '{name}'.{suggest(name, known)}"
                )

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`."""
        model, evaluator = bench.model, import_module("lm_eval")
        wrapped = import_module("lm_eval.models.huggingface").HFLM(
            pretrained=model.network, tokenizer=model.tokenizer, batch_size=8
        )
        with _offline():
            try:
                found = evaluator.simple_evaluate(
                    model=wrapped,
                    tasks=list(self.tasks),
                    task_manager=self._manager(),
                    limit=self.number,
                    log_samples=False,
                )
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"suite 'harness': the data of {', '.join(self.tasks)} cannot be read from "
                    f"this machine ({error}). Run the task once with the lm-eval command, which "
                    "fetches them, or leave this suite out."
                ) from error
        counts = found["n-samples"]
        return [
            _result(name, scores, counts[name]["effective"])
            for name, scores in found["results"].items()
            if name in counts
        ]

    def _manager(self) -> Any:
        folder = str(self.folder) if self.folder else None
        return import_module("lm_eval.tasks").TaskManager(include_path=folder)


def _result(name: str, scores: Mapping[str, Any], count: int) -> TaskResult:
    """The harness names a score `acc,none` and its standard error `acc_stderr,none`."""
    found = {}
    for key, value in scores.items():
        metric, _, kind = key.partition(",")
        if isinstance(value, int | float) and kind and not metric.endswith("_stderr"):
            error = scores.get(f"{metric}_stderr,{kind}")
            label = metric if kind == "none" else f"{metric} {kind}"
            found[label] = _estimate(float(value), error, count)
    return TaskResult(name, count, found)


def _estimate(value: float, error: Any, count: int) -> Estimate:
    """The interval from the standard error, where the harness gives one."""
    if not isinstance(error, int | float):
        return Estimate(value, None, None, count)
    return Estimate(value, value - Z * error, value + Z * error, count)


@contextmanager
def _offline() -> Iterator[None]:
    """Nothing is fetched while tasks are read."""
    before = {name: os.environ.get(name) for name in OFFLINE}
    os.environ.update(dict.fromkeys(OFFLINE, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
