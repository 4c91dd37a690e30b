"""Two models on the same rows: differences with paired intervals, and the rows that changed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from llama_factory.core.errors import DataError
from llama_factory.evaluation import statistics
from llama_factory.evaluation.answered import Scored, judged
from llama_factory.evaluation.changes import RowChange, row_changes
from llama_factory.evaluation.marks import Marks, estimate
from llama_factory.evaluation.metrics import Metric
from llama_factory.evaluation.scores import PERPLEXITY, higher_is_better, is_mean
from llama_factory.evaluation.statistics import Array, Estimate

ALL = "all rows"
"""Name of the line over all tasks together."""


@dataclass(frozen=True)
class ScoreChange:
    """One metric on one task by both models.

    Attributes:
        task: its name, or ALL.
        metric: its name.
        before: the first model's score.
        after: the second model's.
        difference: after - before, paired by row; only an interval that leaves out 0 tells the
            models apart.
        is_better: whether the second is better beyond chance; None where it cannot be told.
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
    before: Mapping[str, Marks], after: Mapping[str, Marks], *, names: tuple[str, str]
) -> Comparison:
    """Compare two models task by task and row by row.

    Args:
        before: the first model's marks by task.
        after: the second model's, on the same rows in the same order.
        names: of both.

    Raises:
        DataError: the two did not answer the same rows.
    """
    _require_same_rows(before, after)
    tasks = [(name, [before[name]], [after[name]]) for name in after]
    if len(tasks) > 1:
        tasks.append((ALL, list(before.values()), list(after.values())))
    scores = [each for task in tasks for each in _task(*task)]
    changed = [row_changes(before[name].predictions, after[name].predictions) for name in after]
    worse, better = (
        _largest_first(chain.from_iterable(rows)) for rows in zip(*changed, strict=True)
    )
    return Comparison(*names, tuple(scores), worse, better)


def _require_same_rows(before: Mapping[str, Marks], after: Mapping[str, Marks]) -> None:
    keys = [
        [(task, p.key) for task in after for p in marks[task].predictions]
        for marks in (before, after)
        if after.keys() <= marks.keys()
    ]
    if len(keys) < 2 or keys[0] != keys[1]:
        raise DataError("The two models were asked different rows, so they cannot be compared.")


def _task(name: str, before: Sequence[Marks], after: Sequence[Marks]) -> list[ScoreChange]:
    metrics = {m.label: m for marks in after for m in marks.exam.metrics if m.label != PERPLEXITY}
    changes = []
    for label, metric in metrics.items():
        old, new = _scored(before, label), _scored(after, label)
        pairs = [(a, b) for a, b in zip(old, new, strict=True) if judged([a]) and judged([b])]
        if pairs:
            changes.append(_change(name, metric, pairs))
    return [*changes, _perplexity(name, before, after)]


def _scored(listed: Sequence[Marks], label: str) -> list[Scored]:
    return [row for marks in listed for row in marks.scored.get(label, ())]


def _change(name: str, metric: Metric, pairs: Sequence[tuple[Scored, Scored]]) -> ScoreChange:
    old, new = [a for a, _ in pairs], [b for _, b in pairs]
    if is_mean(metric.label):
        found = statistics.difference([a.score for a in old], [b.score for b in new])
    else:
        found = statistics.of_rows(
            pairs,
            partial(_change_of_total, metric),
        )
    sides = estimate(metric, old), estimate(metric, new)
    return ScoreChange(name, metric.label, *sides, found, _verdict(found, metric.label))


def _change_of_total(metric: Metric, pairs: Sequence[tuple[Scored, Scored]]) -> float:
    return metric.total([b for _, b in pairs]) - metric.total([a for a, _ in pairs])


def _perplexity(name: str, first: Sequence[Marks], second: Sequence[Marks]) -> ScoreChange:
    old, new = (_likelihoods(listed) for listed in (first, second))
    fits = (old[:, 1] > 0) & (new[:, 1] > 0)
    found = statistics.bootstrap(np.hstack([old, new])[fits], _surprise_change, seed=0)
    before, after = (statistics.perplexity(list(e[:, 0]), list(e[:, 1])) for e in (old, new))
    return ScoreChange(name, PERPLEXITY, before, after, found, _verdict(found, PERPLEXITY))


def _likelihoods(listed: Sequence[Marks]) -> Array:
    """[rows, 2] nats and tokens of the expected answers."""
    return np.array(
        [(p.nats, p.tokens) for marks in listed for p in marks.predictions], dtype=float
    ).reshape(-1, 2)


def _surprise_change(means: Array) -> Array:
    change: Array = np.exp(means[:, 2] / means[:, 3]) - np.exp(means[:, 0] / means[:, 1])
    return change


def _verdict(found: Estimate, label: str) -> bool | None:
    if found.is_above_zero or found.is_below_zero:
        return found.is_above_zero == higher_is_better(label)
    return None


def _largest_first(rows: Iterable[RowChange]) -> tuple[RowChange, ...]:
    return tuple(sorted(rows, key=lambda row: -row.size))
