"""Predictions -> scores: of every row by every metric, and of tasks with 95 % intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llama_factory.core.types import Example, Message
from llama_factory.evaluation import statistics
from llama_factory.evaluation.metrics import METRICS, Metric, ModelMetric
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.task_rows import (
    AnsweredRow,
    Prediction,
    ScoredRow,
    TaskRow,
    by_task,
    rows_with_scores,
)
from llama_factory.evaluation.tasks import EvalTask

PERPLEXITY = "perplexity"
"""Measured on every task, beside the metrics of the settings. Lower is better."""

Intervals = dict[str, dict[str, Estimate]]
"""By task and metric."""


@dataclass(frozen=True)
class TaskResult:
    """Scores of one task with their intervals.

    Attributes:
        task: its name.
        count: its rows.
        scores: by metric.
        details: further numbers that are no score of rows, such as seconds.
    """

    task: str
    count: int
    scores: Mapping[str, Estimate]
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        scores = {name: score.to_json() for name, score in self.scores.items()}
        more = {"details": dict(self.details)} if self.details else {}
        return {"task": self.task, "count": self.count, "scores": scores, **more}


@dataclass(frozen=True)
class ScoredTask:
    """A task's rows with their scores.

    Attributes:
        task: rows and metrics.
        predictions: one a row, with the scores filled in.
        scored: by metric, one a row that the metric scores.
    """

    task: EvalTask
    predictions: tuple[Prediction, ...]
    scored: Mapping[str, Sequence[ScoredRow]]

    @property
    def result(self) -> TaskResult:
        """The task's scores with their intervals."""
        totals = {m.label: estimate(m, self.scored[m.label]) for m in self.task.metrics}
        scores = {name: score for name, score in totals.items() if score.count}
        nats, tokens = [p.nats for p in self.predictions], [p.tokens for p in self.predictions]
        scores[PERPLEXITY] = statistics.perplexity(nats, tokens)
        return TaskResult(self.task.name, len(self.predictions), scores)


def score_task(task: EvalTask, predictions: Sequence[Prediction]) -> ScoredTask:
    """The scores of a task's answers.

    Args:
        task: rows and metrics.
        predictions: one a row of the task, in its order.
    """
    scored: dict[str, list[ScoredRow]] = {}
    scores: list[dict[str, float]] = [{} for _ in predictions]
    for metric in task.metrics:
        places = _places(task, metric)
        scored[metric.label] = _score(task, metric, [predictions[i] for i in places], places)
        for place, each in zip(places, scored[metric.label], strict=True):
            scores[place][metric.label] = each.score
    filled = tuple(replace(p, scores=s) for p, s in zip(predictions, scores, strict=True))
    return ScoredTask(task, filled, scored)


def estimate(metric: Metric, scored: Sequence[ScoredRow]) -> Estimate:
    """A metric's total over rows with its interval; no value where no row has a score."""
    rows = rows_with_scores(scored)
    if is_mean(metric.label):
        return statistics.mean([row.score for row in rows])
    return statistics.of_rows(rows, metric.total)


def _places(task: EvalTask, metric: Metric) -> list[int]:
    """The rows that a metric scores: plain text only by metrics that need the model itself."""
    takes_text = isinstance(metric, ModelMetric)
    return [i for i, row in enumerate(task.rows) if takes_text or not row.example.is_text]


def _score(
    task: EvalTask, metric: Metric, predictions: Sequence[Prediction], places: Sequence[int]
) -> list[ScoredRow]:
    rows = [task.rows[i] for i in places]
    if isinstance(metric, ModelMetric):
        measured = (p.measured[metric.label] for p in predictions)
        pairs = zip(rows, measured, strict=True)
        return [ScoredRow(row.expected, *values, options=row.options) for row, values in pairs]
    answered = [
        AnsweredRow(row, p.answer, p.num_tokens, p.is_cut)
        for row, p in zip(rows, predictions, strict=True)
    ]
    return metric.score_rows(answered)


def higher_is_better(label: str) -> bool:
    """Which end of a score is better; labels begin with the metric's name."""
    part = METRICS.parts.get(label.partition(":")[0])
    return label != PERPLEXITY and (part is None or part.higher_is_better)


def is_mean(label: str) -> bool:
    """Whether a score is the plain mean of the rows' scores."""
    part = METRICS.parts.get(label.partition(":")[0])
    return part is not None and part.total is Metric.total


def score_intervals(predictions: Iterable[Prediction], *, means_only: bool = False) -> Intervals:
    """The intervals of every score in a version's stored predictions.

    Left out are metrics that are no mean and have settings of their own, such as `distinct_n` with
    another n: their label alone does not say how to compute them. `llama-factory compare` and
    `evaluate` print their intervals.

    Args:
        predictions: of one version.
        means_only: leave out all metrics that are no mean; perplexity stays.
    """
    return {
        task: _task_intervals(rows, means_only=means_only)
        for task, rows in by_task(predictions).items()
    }


def intervals_to_json(intervals: Intervals) -> dict[str, Any]:
    """Plain values for report.json."""
    return {
        task: {name: interval.to_json() for name, interval in scores.items()}
        for task, scores in intervals.items()
    }


def _task_intervals(rows: Sequence[Prediction], *, means_only: bool) -> dict[str, Estimate]:
    names = dict.fromkeys(name for row in rows for name in row.scores)
    intervals = {name: statistics.mean(_known(rows, name)) for name in names if is_mean(name)}
    others = (_metric_of(name) for name in names if not (means_only or is_mean(name)))
    intervals |= {m.label: _total(m, rows) for m in others if m and not isinstance(m, ModelMetric)}
    if any(row.tokens for row in rows):
        nats, tokens = [row.nats for row in rows], [row.tokens for row in rows]
        intervals[PERPLEXITY] = statistics.perplexity(nats, tokens)
    return intervals


def _metric_of(label: str) -> Metric | None:
    """The metric of a score, where the label alone determines all of its settings."""
    name = label.partition(":")[0]
    metric = METRICS.parse(name) if name in METRICS.parts else None
    return metric if metric and metric.label == label else None


def _total(metric: Metric, rows: Sequence[Prediction]) -> Estimate:
    """A score that is no mean, from the answers; a round's rows have no options to choose from."""
    answered = [_answered(row) for row in rows if metric.label in row.scores]
    return estimate(metric, metric.score_rows(answered))


def _answered(row: Prediction) -> AnsweredRow:
    turns = Message("user", row.prompt), Message("assistant", row.expected)
    example = Example(turns, row.task, file="", line=0)
    return AnsweredRow(TaskRow(example), row.answer, row.num_tokens, row.is_cut)


def _known(rows: Sequence[Prediction], name: str) -> list[float]:
    """A metric's scores, NaN left out."""
    scores = (row.scores[name] for row in rows if name in row.scores)
    return [score for score in scores if not math.isnan(score)]
