"""What can be measured of a model in one go; one file each. Suites hold settings only.

Suites are chosen by name or file and run one after another; the results are one JSON file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticCustomError

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, suggest
from llama_factory.core.progress import Progress
from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.core.types import Task
from llama_factory.evaluation.scoring import ScoredTask, TaskResult, score_task
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.tasks import EvalTask, file_name

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

RESULTS = "results.json"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Bench:
    """A model on which suites are run.

    Attributes:
        model: in eval mode, with its adapter on.
        model_id: identifies the weights.
        tasks: held-out rows of all rounds that the model was taught; empty outside a workspace.
        settings: metrics and limits where a suite names none.
        folder: predictions are written here as they come.
        progress: shows how far it is.
    """

    model: "AdaptedModel"
    model_id: str
    tasks: tuple[Task, ...]
    settings: EvaluationSettings
    folder: Path
    progress: Progress

    def score(self, tasks: Sequence[EvalTask], title: str) -> list[ScoredTask]:
        """Answer and score tasks; rows that an earlier run has answered are not asked again."""
        from llama_factory.evaluation.answering import predict_resumable

        for task in tasks:
            task.check()
        scored = []
        with self.progress.bar(title, sum(len(task.rows) for task in tasks)) as bar:
            for task in tasks:
                predictions = predict_resumable(
                    self.model,
                    task,
                    self.folder / title / file_name(task.name),
                    model_id=self.model_id,
                    bar=bar,
                )
                scored.append(score_task(task, predictions))
        return scored


class Suite(Settings):
    """Something that is measured of a model."""

    def check(self, tasks: tuple[Task, ...]) -> None:
        """Refuse what cannot be measured, before a model is loaded.

        Args:
            tasks: held-out rows of all rounds that the model was taught.

        Raises:
            FactoryError: with the reason.
        """

    def measure(self, bench: Bench) -> list[TaskResult]:
        """Measure a model; one result a task."""
        raise NotImplementedError


SUITES: Registry[Suite] = Registry("suite")


@dataclass(frozen=True)
class SuiteResult:
    """The results of one suite."""

    suite: str
    tasks: tuple[TaskResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"suite": self.suite, "tasks": [task.to_json() for task in self.tasks]}


def choose_suites(names: Sequence[str], tasks: tuple[Task, ...]) -> dict[str, Suite]:
    """Suites by name, checked before any model is loaded.

    Args:
        names: of suites, or paths of suite files; none for the usual ones.
        tasks: held-out rows of all rounds that the model was taught.

    Raises:
        FactoryError: one is unknown, or cannot be run on this model.
    """
    usual = ("rounds", "guard", "canaries") if tasks else ("guard", "canaries")
    chosen = {_label(name): _parsed(name) for name in names or usual}
    for suite in chosen.values():
        suite.check(tasks)
    return chosen


def run_suites(suites: Mapping[str, Suite], bench: Bench) -> list[SuiteResult]:
    """Run every suite; predictions and results are in the bench's folder."""
    results = []
    for name, suite in suites.items():
        results.append(SuiteResult(name, tuple(suite.measure(bench))))
        values = {"model": bench.model_id, "suites": [each.to_json() for each in results]}
        files.write_json(bench.folder / RESULTS, values)
    return results


def _label(name: str) -> str:
    return Path(name).stem if name.endswith(SUFFIXES) else name


def _parsed(name: str) -> Suite:
    if name.endswith(SUFFIXES):
        return SUITES.parse({"type": "file", "path": name})
    known = sorted(set(SUITES.parts) - {"file"})
    if name not in known:
        raise ConfigError(
            f"--suite: there is no suite '{name}'.{suggest(name, known)} Known: "
            f"{', '.join(known)}; or give a suite file that ends with .yaml."
        )
    try:
        return SUITES.parse(name)
    except PydanticCustomError as error:
        raise ConfigError(
            f"--suite {name}: {error}. Give its settings in a suite file: "
            f"`suites: [{{type: {name}, ...}}]`."
        ) from error


import_parts(__name__, __path__)
