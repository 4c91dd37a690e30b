"""Versions of a workspace on each other's held-out rows; stored answers are used again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from llama_factory.core.errors import DataError
from llama_factory.core.progress import Progress
from llama_factory.evaluation.answering import predict_resumable
from llama_factory.evaluation.comparison import Comparison, compare
from llama_factory.evaluation.lineage_scores import PREDICTIONS
from llama_factory.evaluation.metrics import ModelMetric
from llama_factory.evaluation.scoring import ScoredTask, score_task
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.evaluation.task_rows import Prediction, by_task, read_predictions
from llama_factory.evaluation.tasks import EvalTask, file_name
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.saved import SavedModel
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

EVALUATIONS = "evaluations"
"""Folder of a workspace for measurements of versions after their round."""


@dataclass(frozen=True)
class Measuring:
    """How versions are measured.

    Attributes:
        find: returns the weights of a version.
        encoding: how rows become tokens.
        settings: metrics and limits.
    """

    find: Callable[[ModelVersion], SavedModel]
    encoding: EncodeOptions
    settings: EvaluationSettings


def compare_versions(
    workspace: Workspace,
    pair: tuple[ModelVersion, ModelVersion],
    how: Measuring,
    *,
    progress: Progress,
) -> Comparison:
    """Compare two versions on the held-out rows of every round that either of them was taught.

    Args:
        workspace: new predictions are written to its folder `evaluations`.
        pair: the version before and the one after.
        how: metrics and limits.
        progress: shows how far it is.

    Raises:
        DataError: neither has any held-out row.
    """
    before, after = pair
    tasks = store.tasks(*pair)
    if not tasks:
        raise DataError(
            f"{workspace.folder}: neither {before.id} nor {after.id} has held-out rows to compare "
            "on. Teach a round first."
        )
    eval_tasks = [EvalTask.from_task(task, how.settings) for task in tasks]
    scored = [measure(workspace, each, eval_tasks, how, progress=progress) for each in pair]
    return compare(*scored, names=(before.id, after.id))


def measure(
    workspace: Workspace,
    version: ModelVersion,
    tasks: Sequence[EvalTask],
    how: Measuring,
    *,
    progress: Progress,
) -> dict[str, ScoredTask]:
    """A version's scores by task, from the stored answers of its round where these fit."""
    known = stored(version, tasks)
    left = [task for task in tasks if task.name not in known]
    new = _predict(workspace, version, left, how, progress) if left else {}
    return {task.name: score_task(task, known.get(task.name) or new[task.name]) for task in tasks}


def stored(version: ModelVersion, tasks: Sequence[EvalTask]) -> dict[str, list[Prediction]]:
    """The answers that a version's own round stored, by task: same rows and same limits only."""
    settings = version.folder / "run.yaml"
    if not settings.exists():
        return {}
    limit = yaml.safe_load(settings.read_text(encoding="utf-8"))["evaluation"]["max_new_tokens"]
    predictions = by_task(read_predictions(version.folder / PREDICTIONS))
    same = {
        task.name: _of_rows(task, predictions.get(task.name, []))
        for task in tasks
        if task.max_new_tokens == limit
        and not any(isinstance(metric, ModelMetric) for metric in task.metrics)
    }
    return {name: answers for name, answers in same.items() if answers}


def evaluations(workspace: Workspace, version: ModelVersion) -> Path:
    """Folder of a version's predictions for other rounds' rows."""
    return workspace.folder / EVALUATIONS / version.id / "rounds"


def _of_rows(task: EvalTask, answers: Sequence[Prediction]) -> list[Prediction]:
    """The answers to a task's rows in their order, others left out; none where one is missing."""
    known = {answer.key: answer for answer in answers}
    matching = [known[row.example.key] for row in task.rows if row.example.key in known]
    return matching if len(matching) == len(task.rows) else []


def _predict(
    workspace: Workspace,
    version: ModelVersion,
    tasks: Sequence[EvalTask],
    how: Measuring,
    progress: Progress,
) -> Mapping[str, list[Prediction]]:
    for task in tasks:
        task.check()
    saved = how.find(version)
    model, model_id = saved.open(how.encoding), saved.identity()
    folder = evaluations(workspace, version)
    total = sum(len(task.rows) for task in tasks)
    with progress.bar(f"testing {version.id}", total) as bar:
        return {
            task.name: predict_resumable(
                model, task, folder / file_name(task.name), model_id=model_id, bar=bar
            )
            for task in tasks
        }
