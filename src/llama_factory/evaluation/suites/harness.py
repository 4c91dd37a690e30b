"""Tasks of EleutherAI's lm-evaluation-harness, https://github.com/EleutherAI/lm-evaluation-harness.

Only where that library is installed and the tasks' data are on this machine: nothing is fetched.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from llama_factory.core.types import Task
from llama_factory.evaluation.offline import offline
from llama_factory.evaluation.scoring import TaskResult
from llama_factory.evaluation.statistics import Estimate, Z
from llama_factory.evaluation.suites import SUITES, Bench, Suite
from llama_factory.evaluation.tasks import file_name

SEED = 1234
"""The library's own, so that its command draws the same examples."""
ROWS_AT_ONCE = 8
MAX_CHARACTERS = 2000
"""Of a prompt, counted from its end, where the question comes after the examples."""


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
        """See `Suite.measure`; a task that an earlier run has finished is not run again."""
        with offline():
            return [self._measure(bench, task) for task in self._load()]

    def _load(self) -> list[Any]:
        """The tasks named, those of a group one by one, with their rows."""
        tasks = {}
        for name in self.tasks:
            with _explaining(name):
                _seed()  # some tasks shuffle their options as they are read
                tasks.update(_manager(self.folder).load([name])["tasks"])
        return list(tasks.values())

    def _measure(self, bench: Bench, task: Any) -> TaskResult:
        """Writes samples first and the result last: a result is never without its samples."""
        samples = bench.folder / "harness" / file_name(task.task_name)
        result = samples.with_suffix(".result.json")
        record = self._record(bench.model_id, task)
        kept = _kept(result)
        if kept.get("record") != record:
            scored = self._score(bench, task)
            files.write_jsonl(samples, scored.pop("samples"))
            kept = {"record": record, **scored}
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

    def _score(self, bench: Bench, task: Any) -> dict[str, Any]:
        """Scores, how many rows they are of, and the rows.

        Not by the library's `simple_evaluate`, which takes half a minute to describe the machine.
        """
        name = task.task_name
        with _explaining(name):
            model = _wrapped(bench)
            _prepare(task)
            scored = import_module("lm_eval").evaluate(
                model, {"tasks": {name: task}}, limit=self.number
            )
            samples = [sample_to_json(task, sample) for sample in scored["samples"][name]]
        return {
            "count": scored["n-samples"][name]["effective"],
            "scores": {key: _plain(value) for key, value in scored["results"][name].items()},
            "samples": samples,
        }


@lru_cache(maxsize=1)
def _manager(folder: Path | None) -> Any:
    """All tasks that the harness knows, which takes reading thousands of files."""
    return import_module("lm_eval.tasks").TaskManager(include_path=str(folder) if folder else None)


def _wrapped(bench: Bench) -> Any:
    return import_module("lm_eval.models.huggingface").HFLM(
        pretrained=bench.model.network, tokenizer=bench.model.tokenizer, batch_size=ROWS_AT_ONCE
    )


def _prepare(task: Any) -> None:
    """What the library's command does before it evaluates."""
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
def _explaining(name: str) -> Iterator[None]:
    """Name the task that lacks something: data, a package, or a column in its rows."""
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
        result = files.read_json(path)
    except (OSError, ValueError):
        return {}
    return result if isinstance(result, dict) else {}


def _digest(values: Iterable[Any]) -> str:
    """A hash of settings or rows. Functions and pictures in them are represented by their names."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=_without_address).encode())
    return digest.hexdigest()


def _without_address(value: object) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(value))


def _result(name: str, scores: Mapping[str, Any], count: int) -> TaskResult:
    """The harness names a score `acc,none` and its standard error `acc_stderr,none`."""
    estimates = {}
    for key, value in scores.items():
        metric, _, kind = key.partition(",")
        if isinstance(value, int | float) and kind and not metric.endswith("_stderr"):
            error = scores.get(f"{metric}_stderr,{kind}")
            label = metric if kind == "none" else f"{metric} {kind}"
            estimates[label] = _estimate(float(value), error, count)
    return TaskResult(name, count, estimates)


def _estimate(value: float, error: Any, count: int) -> Estimate:
    """The interval from the standard error, where the harness gives one."""
    if not isinstance(error, int | float):
        return Estimate(value, None, None, count)
    return Estimate(value, value - Z * error, value + Z * error, count)


def sample_to_json(task: Any, sample: Mapping[str, Any]) -> dict[str, Any]:
    """One JSON line: prompt, expected and given answer, and every score of the row.

    The harness keeps requests and likelihoods; which option they came to is worked out here. Scores
    are the harness's own.

    Args:
        task: the harness's task, which knows the options.
        sample: the harness's record of the row under one of the task's filters.
    """
    options = _options(task, sample)
    return {
        "task": task.task_name,
        "row": sample["doc_id"],
        "prompt": _prompt(sample)[-MAX_CHARACTERS:],
        "expected": _expected(task, sample, options),
        "answer": _answer(sample, options),
        "filter": sample["filter"],
        "scores": {name: _plain(sample[name]) for name in sample["metrics"]},
        "key": sample["doc_hash"],
    }


def _options(task: Any, sample: Mapping[str, Any]) -> list[str]:
    """The task's own, else the continuations that were compared; none where one text was asked."""
    if task.get_config("doc_to_choice") is not None:
        return [str(option) for option in task.doc_to_choice(sample["doc"])]
    asked = sample["arguments"]
    return [str(each[1]).strip() for each in asked] if len(asked) > 1 else []


def _prompt(sample: Mapping[str, Any]) -> str:
    return str(sample["arguments"][0][0])


def _expected(task: Any, sample: Mapping[str, Any], options: Sequence[str]) -> str:
    """Where each option has a prompt of its own, the harness finds the right one as the text."""
    is_text = len(sample["arguments"][0]) == 1
    if is_text:
        return ""
    has_own_prompts = bool(getattr(task, "multiple_input", False))
    target = task.doc_to_text(sample["doc"]) if has_own_prompts else sample["target"]
    targets = target if isinstance(target, list) else [target]
    return ", ".join(_named(each, options) for each in targets).strip()


def _named(target: object, options: Sequence[str]) -> str:
    """A number counts the options."""
    if isinstance(target, int) and 0 <= target < len(options):
        return options[target]
    return str(target)


def _answer(sample: Mapping[str, Any], options: Sequence[str]) -> str:
    """The generated text, the likeliest option, or the one continuation if greedy text equals it.

    Likelihoods beyond the options are those without a prompt, for mutual information.
    """
    asked, replies = sample["arguments"], sample["filtered_resps"]
    if len(asked) > 1:
        best = max(range(len(options)), key=lambda place: float(replies[place][0]))
        return options[best]
    if len(asked[0]) == 1:
        return ""
    if isinstance(asked[0][1], str):
        return asked[0][1].strip() if replies[0][1] else ""
    return _text(replies[0])


def _text(reply: object) -> str:
    """The first of several where a filter keeps more than one."""
    return _text(reply[0]) if isinstance(reply, list | tuple) and reply else str(reply)


def _plain(value: Any) -> Any:
    """A score as JSON knows it: NumPy's numbers and arrays among them, inside tuples too."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value if isinstance(value, int | float | str) or value is None else str(value)
