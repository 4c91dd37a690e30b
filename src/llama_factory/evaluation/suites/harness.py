"""Tasks of EleutherAI's lm-evaluation-harness, https://github.com/EleutherAI/lm-evaluation-harness.

Only where that library is installed and the tasks' data are on this machine: nothing is fetched.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, suggest
from llama_factory.core.offline import offline
from llama_factory.core.types import Task
from llama_factory.evaluation.exam import file_name
from llama_factory.evaluation.harness_sample import plain, readable
from llama_factory.evaluation.marks import TaskResult
from llama_factory.evaluation.statistics import Estimate, Z
from llama_factory.evaluation.suites import SUITES, Bench, Suite

SEED = 1234
"""The library's own, so that its command draws the same examples."""
ROWS_AT_ONCE = 8


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
        """See `Suite.check`; the tasks' data are read once."""
        if find_spec("lm_eval") is None:
            raise ConfigError(
                f"suite 'harness': the tasks {', '.join(self.tasks)} need the package lm-eval, "
                "which is not installed. Install it with `pip install "
                "'llama-factory-continual[harness]'`, or leave this suite out."
            )
        known = _manager(self.folder).all_tasks
        for name in self.tasks:
            if name not in known:
                raise ConfigError(
                    f"suite 'harness': lm-eval has no task '{name}'.{suggest(name, known)}"
                )
        with offline():
            self._load()

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`; a task that an earlier run has finished is not asked again."""
        with offline():
            return [self._measure(bench, task) for task in self._load()]

    def _load(self) -> list[Any]:
        """The tasks named, those of a group one by one, with their rows."""
        found = {}
        for name in self.tasks:
            with _telling(name):
                _seed()  # some tasks shuffle their options as they are read
                found.update(_manager(self.folder).load([name])["tasks"])
        return list(found.values())

    def _measure(self, bench: Bench, task: Any) -> TaskResult:
        """Samples first and the result last: where there is a result, everything is there."""
        samples = bench.folder / "harness" / file_name(task.task_name)
        result = samples.with_suffix(".result.json")
        record = self._record(bench.model_id, task)
        kept = _kept(result)
        if kept.get("record") != record:
            found = self._ask(bench, task)
            files.write_jsonl(samples, found.pop("samples"))
            kept = {"record": record, **found}
            files.write_json(result, kept)
        return _result(task.task_name, kept["scores"], kept["count"])

    def _record(self, model_id: str, task: Any) -> dict[str, str]:
        """What a result depends on."""
        return {
            "model": model_id,
            "lm_eval": import_module("lm_eval").__version__,
            "task": _digest([task.dump_config()]),
            "rows": _digest(islice(task.eval_docs, self.number)),
        }

    def _ask(self, bench: Bench, task: Any) -> dict[str, Any]:
        """Scores, how many rows they are of, and the rows.

        Not by the library's `simple_evaluate`, which takes half a minute to describe the machine.
        """
        name = task.task_name
        with _telling(name):
            model = _wrapped(bench)
            _prepare(task)
            found = import_module("lm_eval").evaluate(
                model, {"tasks": {name: task}}, limit=self.number
            )
            samples = [readable(task, sample) for sample in found["samples"][name]]
        return {
            "count": found["n-samples"][name]["effective"],
            "scores": {key: plain(value) for key, value in found["results"][name].items()},
            "samples": samples,
        }


@lru_cache(maxsize=1)
def _manager(folder: Path | None) -> Any:
    """What the harness knows of; it reads thousands of files to find out."""
    return import_module("lm_eval.tasks").TaskManager(include_path=str(folder) if folder else None)


def _wrapped(bench: Bench) -> Any:
    return import_module("lm_eval.models.huggingface").HFLM(
        pretrained=bench.model.network, tokenizer=bench.model.tokenizer, batch_size=ROWS_AT_ONCE
    )


def _prepare(task: Any) -> None:
    """What the library's command does before it asks."""
    if task.get_config("num_fewshot") is None:
        task.set_config("num_fewshot", 0)
    task.set_fewshot_seed(SEED)
    _seed()


def _seed() -> None:
    """The same rows and answers in any order of tasks, and as the library's command has them."""
    import torch

    random.seed(0)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@contextmanager
def _telling(name: str) -> Iterator[None]:
    """Say of which task something is missing: data, a package, or a column in its rows."""
    try:
        yield
    except (OSError, ValueError, LookupError, ImportError) as error:
        raise ConfigError(
            f"suite 'harness': task '{name}' cannot be run with what is on this machine "
            f"({type(error).__name__}: {error}). Nothing is fetched here: `lm_eval --model dummy "
            f"--tasks {name} --limit 1` fetches its data once and names packages that it needs. "
            "Or leave the task out."
        ) from error


def _kept(path: Path) -> dict[str, Any]:
    """An earlier run's result; nothing where it is missing or damaged."""
    try:
        found = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _digest(values: Iterable[Any]) -> str:
    """A hash of settings or rows. Functions and pictures in them are told by name."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=_without_address).encode())
    return digest.hexdigest()


def _without_address(value: object) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


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
