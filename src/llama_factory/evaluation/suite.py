"""Scores a model on all tasks of its lineage and on the general guard."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core.errors import ConfigError
from llama_factory.core.progress import Bar, Progress
from llama_factory.core.types import EvalReport, Example, Task, TaskScores
from llama_factory.data.reading import read_examples
from llama_factory.evaluation.answers import answers, perplexity
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.model.load import AdaptedModel

BUILT_IN_GUARD = Path(__file__).parent / "guard.jsonl"
PERPLEXITY = "perplexity"
"""Measured on every task, beside the metrics of the settings. Lower is better."""


@dataclass(frozen=True)
class Prediction:
    """One generated answer, kept so that people can see what a score means."""

    task: str
    prompt: str
    expected: str
    answer: str
    scores: dict[str, float]


def evaluate(
    model: AdaptedModel,
    tasks: Sequence[Task],
    settings: EvaluationSettings,
    *,
    title: str,
    progress: Progress,
) -> tuple[EvalReport, list[Prediction]]:
    """Score a model on every task and on the guard.

    Args:
        model: with its adapter on.
        tasks: held-out rows; at most `max_rows` of each are scored, always the same ones.
        settings: metrics and limits.
        title: shown beside the progress bar.
        progress: shows how far it is.
    """
    started = time.perf_counter()
    model.network.eval()
    guard_rows = load_guard(settings.guard or BUILT_IN_GUARD)
    chosen = [Task(t.round, t.group, t.rows[: settings.max_rows]) for t in tasks]
    scored: dict[str, TaskScores] = {}
    predictions: list[Prediction] = []
    total = sum(len(task.rows) for task in chosen) + len(guard_rows)
    with progress.bar(title, total) as bar:
        for task in chosen:
            made = _predict(model, task, settings, bar)
            predictions += made
            surprise = perplexity(model, task.rows, batch_tokens=settings.batch_tokens)
            scored[task.name] = _average(task, made, surprise)
        guard = perplexity(model, guard_rows, batch_tokens=settings.batch_tokens)
        bar.advance(len(guard_rows))
    return EvalReport(scored, guard, time.perf_counter() - started), predictions


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


def _predict(
    model: AdaptedModel, task: Task, settings: EvaluationSettings, bar: Bar
) -> list[Prediction]:
    given = answers(model, task.rows, max_new_tokens=settings.max_new_tokens, bar=bar)
    return [
        Prediction(
            task=task.name,
            prompt=row.prompt[-1].content,
            expected=row.answer,
            answer=answer,
            scores={METRICS.name_of(m): m.score(row.answer, answer) for m in settings.metrics},
        )
        for row, answer in zip(task.rows, given, strict=True)
    ]


def _average(task: Task, predictions: Sequence[Prediction], surprise: float) -> TaskScores:
    names = predictions[0].scores if predictions else {}
    means = {name: sum(p.scores[name] for p in predictions) / len(predictions) for name in names}
    return TaskScores(task.name, len(task.rows), means | {PERPLEXITY: surprise})
