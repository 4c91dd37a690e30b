"""A workspace's versions on each other's held-out rows, measured only where nobody has yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from llama_factory.core.errors import DataError
from llama_factory.core.progress import Progress
from llama_factory.evaluation import prediction
from llama_factory.evaluation.asking import put_resumable
from llama_factory.evaluation.compare import Comparison, compare
from llama_factory.evaluation.exam import Exam, file_name, of_task
from llama_factory.evaluation.lineage import PREDICTIONS
from llama_factory.evaluation.marks import Marks, judge
from llama_factory.evaluation.metrics import ModelMetric
from llama_factory.evaluation.prediction import Prediction, by_task
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.saved import SavedModel
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

EVALUATIONS = "evaluations"
"""Folder of a workspace for what was measured after a version was made."""


@dataclass(frozen=True)
class Measuring:
    """How versions are measured.

    Attributes:
        find: where the weights of a version lie.
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
        workspace: what is measured anew is kept in its folder `evaluations`.
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
    exams = [of_task(task, how.settings) for task in tasks]
    marks = [measure(workspace, each, exams, how, progress=progress) for each in pair]
    return compare(*marks, names=(before.id, after.id))


def measure(
    workspace: Workspace,
    version: ModelVersion,
    exams: Sequence[Exam],
    how: Measuring,
    *,
    progress: Progress,
) -> dict[str, Marks]:
    """A version's marks by task: from its round where that asked the same, else measured now."""
    known = stored(version, exams)
    left = [exam for exam in exams if exam.name not in known]
    made = _put(workspace, version, left, how, progress) if left else {}
    return {exam.name: judge(exam, known.get(exam.name) or made[exam.name]) for exam in exams}


def stored(version: ModelVersion, exams: Sequence[Exam]) -> dict[str, list[Prediction]]:
    """What a version's own round kept of these exams: their rows, asked in the same way."""
    settings = version.folder / "run.yaml"
    if not settings.exists():
        return {}
    limit = yaml.safe_load(settings.read_text(encoding="utf-8"))["evaluation"]["max_new_tokens"]
    found = by_task(prediction.read(version.folder / PREDICTIONS))
    same = {
        exam.name: _of_rows(exam, found.get(exam.name, []))
        for exam in exams
        if exam.max_new_tokens == limit
        and not any(isinstance(metric, ModelMetric) for metric in exam.metrics)
    }
    return {name: answers for name, answers in same.items() if answers}


def _of_rows(exam: Exam, answers: Sequence[Prediction]) -> list[Prediction]:
    """The answers to an exam's rows in their order, others left out; none where one is missing."""
    known = {answer.key: answer for answer in answers}
    found = [known[row.example.key] for row in exam.rows if row.example.key in known]
    return found if len(found) == len(exam.rows) else []


def _put(
    workspace: Workspace,
    version: ModelVersion,
    exams: Sequence[Exam],
    how: Measuring,
    progress: Progress,
) -> Mapping[str, list[Prediction]]:
    for exam in exams:
        exam.check()
    saved = how.find(version)
    model, model_id = saved.open(how.encoding), saved.identity()
    folder = evaluations(workspace, version)
    total = sum(len(exam.rows) for exam in exams)
    with progress.bar(f"testing {version.id}", total) as bar:
        return {
            exam.name: put_resumable(
                model, exam, folder / file_name(exam.name), model_id=model_id, bar=bar
            )
            for exam in exams
        }


def evaluations(workspace: Workspace, version: ModelVersion) -> Path:
    """Where predictions of a version on other rounds' rows are kept."""
    return workspace.folder / EVALUATIONS / version.id / "rounds"
