"""The rows that two models both answered, side by side: what paired tests are made of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llama_factory.evaluation.scoring import is_mean
from llama_factory.evaluation.statistics import Array
from llama_factory.evaluation.task_rows import Prediction, by_task


@dataclass(frozen=True)
class PairedRows:
    """One task by two models.

    Attributes:
        scores: [rows, 2] of a metric, before and after; no rows where the metric is no mean of
            rows, or where only one of the two has a score of a row.
        nats: [rows, 3] negative log-likelihood of the right answer before and after, and its
            tokens; no rows where one of them is no number.
    """

    scores: Array
    nats: Array

    @property
    def changes(self) -> Array:
        """[rows] how far the score rose."""
        change: Array = self.scores[:, 1] - self.scores[:, 0]
        return change

    @property
    def gained_nats(self) -> Array:
        """[rows] how much likelier the right answer became."""
        gain: Array = self.nats[:, 0] - self.nats[:, 1]
        return gain


def pair_rows(
    before: Iterable[Prediction], after: Iterable[Prediction], metric: str
) -> dict[str, PairedRows]:
    """The rows of each task of `after` beside what `before` says of them.

    Args:
        before: of one model; rows of more tasks do no harm, and of repeated rows the last counts.
        after: of the other; tasks of which a row is missing in `before` are left out.
        metric: label of the metric whose scores are compared.
    """
    known = {(row.task, row.key): row for row in before}
    paired = {}
    for task, rows in by_task(after).items():
        old = [known.get((task, row.key)) for row in rows]
        both = [(a, b) for a, b in zip(old, rows, strict=True) if a is not None]
        if len(both) == len(rows):
            scores = _scores(both, metric) if is_mean(metric) else _no_rows(2)
            paired[task] = PairedRows(scores, _nats(both))
    return paired


def _scores(both: list[tuple[Prediction, Prediction]], metric: str) -> Array:
    scores = np.array(
        [[each.scores.get(metric, math.nan) for each in pair] for pair in both]
    ).reshape(-1, 2)
    known = ~np.isnan(scores)
    if (known[:, 0] != known[:, 1]).any():
        return _no_rows(2)
    return scores[known[:, 0]]


def _nats(both: list[tuple[Prediction, Prediction]]) -> Array:
    rows = [(a.nats, b.nats, float(b.tokens)) for a, b in both if a.tokens and b.tokens]
    nats = np.array(rows).reshape(-1, 3)
    return nats if np.isfinite(nats).all() else _no_rows(3)


def _no_rows(columns: int) -> Array:
    return np.zeros((0, columns))
