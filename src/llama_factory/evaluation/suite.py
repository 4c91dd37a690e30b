"""Scores a model on all tasks of its lineage and on the general guard."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Bar, Progress
from llama_factory.core.types import EvalReport, Example, Task, TaskScores
from llama_factory.data.reading import read_examples
from llama_factory.evaluation.answers import perplexity
from llama_factory.evaluation.asking import put, put_resumable
from llama_factory.evaluation.exam import Exam, file_name, of_task
from llama_factory.evaluation.marks import Marks, judge
from llama_factory.evaluation.prediction import Prediction
from llama_factory.evaluation.scores import PERPLEXITY
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.model.adapted import AdaptedModel

__all__ = ["BUILT_IN_GUARD", "PERPLEXITY", "Prediction", "evaluate", "load_guard"]

BUILT_IN_GUARD = Path(__file__).parent / "guard.jsonl"


def evaluate(
    model: AdaptedModel,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    *,
    title: str,
    progress: Progress,
    folder: Path | None = None,
) -> tuple[EvalReport, list[Prediction]]:
    """Score a model on every task and on the guard.

    Rows of plain text are judged by their likelihood alone: their tasks have a perplexity and no
    other score.

    Args:
        model: with its adapter on.
        tasks: held-out rows; at most `max_rows` of each are scored, always the same ones.
        settings: metrics and limits.
        title: shown beside the progress bar.
        progress: shows how far it is.
        folder: where predictions are written as they come, so that a killed evaluation goes on
            as long as the weights are the same; None keeps them in memory.

    Raises:
        DataError: a metric cannot judge the rows.
    """
    started = time.perf_counter()
    model.network.eval()
    guard_rows = load_guard(settings.guard or BUILT_IN_GUARD)
    exams = [of_task(task, settings) for task in tasks]
    for exam in exams:
        exam.check()
    total = sum(len(exam.rows) for exam in exams) + len(guard_rows)
    with progress.bar(title, total) as bar:
        marks = [judge(exam, each) for exam, each in _put(model, exams, folder, bar)]
        guard = perplexity(model, guard_rows, batch_tokens=settings.batch_tokens)
        bar.advance(len(guard_rows))
    report = EvalReport(_scores(marks), guard, time.perf_counter() - started)
    return report, [each for marked in marks for each in marked.predictions]


def load_guard(path: Path) -> list[Example]:
    """The general rows.

    Raises:
        ConfigError: the file is missing or holds no usable row.
    """
    if not path.is_file():
        raise ConfigError(f"evaluation.guard: {path} does not exist.")
    rows = [row for row in read_examples(path) if isinstance(row, Example)]
    if not rows:
        raise ConfigError(f"evaluation.guard: {path} holds no usable row.")
    return rows


def _put(
    model: AdaptedModel, exams: Sequence[Exam], folder: Path | None, bar: Bar
) -> Iterator[tuple[Exam, list[Prediction]]]:
    model_id = _identity(model) if folder else ""
    for exam in exams:
        if folder is None:
            yield exam, put(model, exam, bar)
        else:
            path = folder / file_name(exam.name)
            yield exam, put_resumable(model, exam, path, model_id=model_id, bar=bar)


def _identity(model: AdaptedModel) -> str:
    """Identifies the weights as they are in memory: a round goes on only with the same ones."""
    digest = hashlib.blake2b(model.fingerprint.encode(), digest_size=16)
    for name, weight in sorted(model.trainable().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _scores(marks: Sequence[Marks]) -> dict[str, TaskScores]:
    results = (marked.result for marked in marks)
    return {
        r.task: TaskScores(r.task, r.count, {name: s.value for name, s in r.scores.items()})
        for r in results
    }
