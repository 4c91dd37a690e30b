"""Two models on the same rows: differences with paired intervals, and the rows that changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from llama_factory.core.errors import DataError
from llama_factory.evaluation import statistics
from llama_factory.evaluation.metrics import Metric
from llama_factory.evaluation.scoring import (
    PERPLEXITY,
    ScoredTask,
    estimate,
    higher_is_better,
    is_mean,
)
from llama_factory.evaluation.statistics import Array, Estimate
from llama_factory.evaluation.task_rows import Prediction, ScoredRow, rows_with_scores

ALL = "all rows"
"""Name of the line over all tasks together."""
MIN_CHANGE = 1e-9
"""Smaller changes of a row's score are none."""


@dataclass(frozen=True)
class ScoreChange:
    """One metric on one task by both models.

    Attributes:
        task: its name, or ALL.
        metric: its name.
        before: the first model's score.
        after: the second model's.
        difference: after - before, paired by row; the models differ only
            where its interval leaves out 0.
        is_better: whether the second is significantly better; None where its interval holds 0.
    """

    task: str
    metric: str
    before: Estimate
    after: Estimate
    difference: Estimate
    is_better: bool | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        estimates = {
            name: getattr(self, name).to_json() for name in ("before", "after", "difference")
        }
        return {
            "task": self.task,
            "metric": self.metric,
            **estimates,
            "is_better": self.is_better,
        }


@dataclass(frozen=True)
class RowChange:
    """A row on which one metric changed, with both answers."""

    task: str
    metric: str
    prompt: str
    expected: str
    before: str
    after: str
    score_before: float
    score_after: float

    @property
    def size(self) -> float:
        """How far the score moved."""
        return abs(self.score_after - self.score_before)


@dataclass(frozen=True)
class Comparison:
    """What changed from one model to the other.

    Attributes:
        before: name of the first model.
        after: name of the second.
        scores: every metric on every task, then over all tasks.
        worse: rows that got worse, the largest change first.
        better: rows that got better.
    """

    before: str
    after: str
    scores: tuple[ScoreChange, ...]
    worse: tuple[RowChange, ...]
    better: tuple[RowChange, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "before": self.before,
            "after": self.after,
            "scores": [each.to_json() for each in self.scores],
            "worse": [asdict(row) for row in self.worse],
            "better": [asdict(row) for row in self.better],
        }


def compare(
    before: Mapping[str, ScoredTask], after: Mapping[str, ScoredTask], *, names: tuple[str, str]
) -> Comparison:
    """Compare two models task by task and row by row.

    Args:
        before: the first model's scores by task.
        after: the second model's, on the same rows in the same order.
        names: of both.

    Raises:
        DataError: the two did not answer the same rows.
    """
    _require_same_rows(before, after)
    tasks = [(name, [before[name]], [after[name]]) for name in after]
    if len(tasks) > 1:
        tasks.append((ALL, list(before.values()), list(after.values())))
    scores = [each for task in tasks for each in _task_changes(*task)]
    changed = [row_changes(before[name].predictions, after[name].predictions) for name in after]
    worse, better = (
        _largest_first(chain.from_iterable(rows)) for rows in zip(*changed, strict=True)
    )
    return Comparison(*names, tuple(scores), worse, better)


def _require_same_rows(before: Mapping[str, ScoredTask], after: Mapping[str, ScoredTask]) -> None:
    keys = [
        [(task, p.key) for task in after for p in scored[task].predictions]
        for scored in (before, after)
        if after.keys() <= scored.keys()
    ]
    if len(keys) < 2 or keys[0] != keys[1]:
        raise DataError("The two models were asked different rows, so they cannot be compared.")


def _task_changes(
    name: str, before: Sequence[ScoredTask], after: Sequence[ScoredTask]
) -> list[ScoreChange]:
    metrics = {m.label: m for each in after for m in each.task.metrics if m.label != PERPLEXITY}
    changes = []
    for label, metric in metrics.items():
        old, new = _scored_rows(before, label), _scored_rows(after, label)
        pairs = [p for p in zip(old, new, strict=True) if len(rows_with_scores(p)) == 2]
        if pairs:
            changes.append(_change(name, metric, pairs))
    return [*changes, _perplexity_score(name, before, after)]


def _scored_rows(tasks: Sequence[ScoredTask], label: str) -> list[ScoredRow]:
    return [row for each in tasks for row in each.scored.get(label, ())]


def _change(name: str, metric: Metric, pairs: Sequence[tuple[ScoredRow, ScoredRow]]) -> ScoreChange:
    old, new = [a for a, _ in pairs], [b for _, b in pairs]
    if is_mean(metric.label):
        difference = statistics.difference([a.score for a in old], [b.score for b in new])
    else:
        difference = statistics.of_rows(pairs, partial(_change_of_total, metric))
    sides = estimate(metric, old), estimate(metric, new)
    return ScoreChange(name, metric.label, *sides, difference, _is_better(difference, metric.label))


def _change_of_total(metric: Metric, pairs: Sequence[tuple[ScoredRow, ScoredRow]]) -> float:
    return metric.total([b for _, b in pairs]) - metric.total([a for a, _ in pairs])


def _perplexity_score(
    name: str, first: Sequence[ScoredTask], second: Sequence[ScoredTask]
) -> ScoreChange:
    old, new = map(_likelihoods, (first, second))
    fits = (old[:, 1] > 0) & (new[:, 1] > 0)
    change = statistics.bootstrap(np.hstack([old, new])[fits], _perplexity_change, seed=0)
    before, after = (statistics.perplexity(list(e[:, 0]), list(e[:, 1])) for e in (old, new))
    return ScoreChange(name, PERPLEXITY, before, after, change, _is_better(change, PERPLEXITY))


def _likelihoods(tasks: Sequence[ScoredTask]) -> Array:
    """[rows, 2] nats and tokens of the expected answers."""
    return np.array(
        [(p.nats, p.tokens) for each in tasks for p in each.predictions], dtype=float
    ).reshape(-1, 2)


def _perplexity_change(means: Array) -> Array:
    change: Array = np.exp(means[:, 2] / means[:, 3]) - np.exp(means[:, 0] / means[:, 1])
    return change


def _is_better(difference: Estimate, label: str) -> bool | None:
    if difference.is_above_zero or difference.is_below_zero:
        return difference.is_above_zero == higher_is_better(label)
    return None


def _largest_first(rows: Iterable[RowChange]) -> tuple[RowChange, ...]:
    return tuple(sorted(rows, key=lambda row: -row.size))


def row_changes(
    before: Sequence[Prediction], after: Sequence[Prediction]
) -> tuple[list[RowChange], list[RowChange]]:
    """The rows that got worse and those that got better, each under the first metric that moved.

    Args:
        before: one model's predictions.
        after: the other's on the same rows in the same order.
    """
    worse: list[RowChange] = []
    better: list[RowChange] = []
    for old, new in zip(before, after, strict=True):
        moved = (n for n in new.scores if n in old.scores and _has_moved(old, new, n))
        name = next(moved, None)
        if name is not None:
            is_better = (new.scores[name] > old.scores[name]) == higher_is_better(name)
            (better if is_better else worse).append(_row_change(old, new, name))
    return worse, better


def _has_moved(old: Prediction, new: Prediction, name: str) -> bool:
    return abs(old.scores[name] - new.scores[name]) > MIN_CHANGE


def _row_change(old: Prediction, new: Prediction, name: str) -> RowChange:
    return RowChange(
        new.task,
        name,
        new.prompt,
        new.expected,
        old.answer,
        new.answer,
        old.scores[name],
        new.scores[name],
    )
