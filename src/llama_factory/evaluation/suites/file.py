"""File: a suite of one's own, a YAML file of tasks and of other suites."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from llama_factory.core.errors import ConfigError
from llama_factory.core.settings import OneOf, Settings
from llama_factory.core.types import Task
from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.metrics.exact_match import ExactMatch
from llama_factory.evaluation.metrics.token_f1 import TokenF1
from llama_factory.evaluation.scoring import TaskResult
from llama_factory.evaluation.suites import SUITES, Bench, Suite
from llama_factory.evaluation.suites.robustness import Noise, measure_noise
from llama_factory.evaluation.tasks import EvalTask, RowSource, read_task_rows

Place = tuple[int | str, ...]


class TaskSettings(Settings):
    """One task of a suite file."""

    name: str = Field(min_length=1)
    """What it is called in tables."""
    rows: Path
    """File of rows in any layout that can be taught; beside the suite file unless the path says
    otherwise."""
    prompt: str = ""
    """What is asked, with the row's fields in braces: `Is this true? {statement}`. Empty: what the
    row itself asks."""
    answer: str = ""
    """Field with the expected answer, where `prompt` is given. Empty: found by its name."""
    options: list[str] | str = []
    """Answers to choose from, or the field that lists them. Every expected answer must be one."""
    metrics: list[Annotated[Metric, OneOf(METRICS)]] = [ExactMatch(), TokenF1()]
    """How answers are judged. Perplexity is always measured."""
    number: int = Field(200, ge=1)
    """Most rows asked, always the same ones. Higher measures better and takes longer."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer, in tokens."""
    noise: list[Noise] = []
    """Ways to ask the same rows worse; the share of the score that is kept is reported."""
    noise_rate: float = Field(0.05, gt=0, le=1)
    """Share of letters that typing noise changes."""


class SuiteSettings(Settings):
    """A suite file."""

    tasks: list[TaskSettings] = []
    """Tasks of one's own."""
    suites: list[Annotated[Suite, OneOf(SUITES)]] = []
    """Further suites, with their settings."""


@SUITES.register("file")
class SuiteFile(Suite):
    """Tasks from a YAML file."""

    path: Path
    """The file."""

    def check(self, tasks: tuple[Task, ...]) -> None:
        """See `Suite.check`; every row is read once."""
        settings = read_suite(self.path)
        for task in settings.tasks:
            self._eval_task(task, batch_tokens=1).check()
        for suite in settings.suites:
            suite.check(tasks)

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`."""
        settings = read_suite(self.path)
        results: list[TaskResult] = []
        for task in settings.tasks:
            asked = self._eval_task(task, batch_tokens=bench.settings.batch_tokens)
            title = self.path.stem
            if task.noise:
                results += measure_noise(
                    bench, asked, task.noise, rate=task.noise_rate, title=title
                )
            else:
                results += [scored.result for scored in bench.score([asked], title)]
        return results + [each for suite in settings.suites for each in suite.measure(bench)]

    def _eval_task(self, task: TaskSettings, *, batch_tokens: int) -> EvalTask:
        source = RowSource(task.prompt, task.answer, task.options, task.number)
        rows = read_task_rows(self.path.parent / task.rows, source, task=task.name)
        return EvalTask(
            name=task.name,
            rows=tuple(rows),
            metrics=tuple(task.metrics),
            max_new_tokens=task.max_new_tokens,
            batch_tokens=batch_tokens,
            takes_text=False,
        )


def read_suite(path: Path) -> SuiteSettings:
    """Read and validate a suite file.

    Raises:
        ConfigError: all problems found, each with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        tree, values = yaml.compose(text, Loader=yaml.SafeLoader), yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: this suite file cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    try:
        settings = SuiteSettings.model_validate(values if values is not None else {})
    except ValidationError as error:
        problems = [f"  {_located(tree, *each)}" for each in _problems(error.errors())]
        raise ConfigError("\n".join([f"{path}: {len(problems)} problem(s)", *problems])) from None
    _require_tasks(path, settings)
    return settings


def _require_tasks(path: Path, settings: SuiteSettings) -> None:
    names = [task.name for task in settings.tasks]
    if not (names or settings.suites):
        raise ConfigError(f"{path}: there is no task. List them under `tasks:`.")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: two tasks are called '{twice}'. Give each its own name.")


def _problems(errors: Sequence[Any], outer: Place = ()) -> Iterator[tuple[Place, str]]:
    """Each problem with its place; those of a part are nested in that of the field around it."""
    for error in errors:
        place, inner = (*outer, *error["loc"]), (error.get("ctx") or {}).get("problems")
        if inner:
            yield from _problems(inner, place)
        else:
            yield place, error["msg"].replace("Input should be", "must be")


def _located(tree: yaml.Node | None, place: Place, why: str) -> str:
    named = ".".join(str(step) for step in place)
    return f"line {_line(tree, place)}: {named}: {why}"


def _line(tree: yaml.Node | None, place: Place) -> int:
    """The line of a setting, or of what surrounds it."""
    line = 1
    for step in place:
        inner = _inside(tree, step)
        if inner is None:
            break
        line, tree = inner
    return line


def _inside(tree: yaml.Node | None, step: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(tree, yaml.MappingNode):
        pairs = ((key, value) for key, value in tree.value if key.value == step)
        return next(((key.start_mark.line + 1, value) for key, value in pairs), None)
    if isinstance(tree, yaml.SequenceNode) and isinstance(step, int) and step < len(tree.value):
        return tree.value[step].start_mark.line + 1, tree.value[step]
    return None
