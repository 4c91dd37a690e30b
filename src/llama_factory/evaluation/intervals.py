"""95 % intervals of a version's scores, from the predictions that lie in its folder."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from llama_factory.core.types import Example, Message
from llama_factory.evaluation import statistics
from llama_factory.evaluation.answered import Answered, TaskRow
from llama_factory.evaluation.marks import estimate
from llama_factory.evaluation.metrics import Metric, ModelMetric
from llama_factory.evaluation.prediction import Prediction, by_task
from llama_factory.evaluation.scores import PERPLEXITY, is_mean, metric_of
from llama_factory.evaluation.statistics import Estimate

Intervals = dict[str, dict[str, Estimate]]
"""By task and metric."""


def of_predictions(predictions: Iterable[Prediction], *, means_only: bool = False) -> Intervals:
    """The intervals of every score, but of those that are no mean and have settings of their own.

    Such a metric, of which there is `distinct_n` with another n, is not known from its label alone:
    `llama-factory compare` and `evaluate` tell its interval.

    Args:
        predictions: of one version.
        means_only: leave out all metrics that are no mean; perplexity stays.
    """
    return {
        task: _of_task(rows, means_only=means_only) for task, rows in by_task(predictions).items()
    }


def of_changes(
    before: Iterable[Prediction], after: Iterable[Prediction], metric: str
) -> dict[str, Estimate]:
    """By task, how far a mean score moved, paired by row.

    None is given for a metric that is no mean, nor where a row was judged in one of them only.

    Args:
        before: of one model; rows of more tasks, or asked twice, do no harm: the last counts.
        after: of the other.
        metric: its label.
    """
    if not is_mean(metric):
        return {}
    known = {(row.task, row.key): row.scores.get(metric, math.nan) for row in before}
    found = {}
    for task, rows in by_task(after).items():
        new = np.array([row.scores.get(metric, math.nan) for row in rows])
        old = np.array([known.get((task, row.key), math.nan) for row in rows])
        is_judged = ~np.isnan(new)
        if is_judged.any() and np.array_equal(is_judged, ~np.isnan(old)):
            found[task] = statistics.difference(old[is_judged], new[is_judged])
    return found


def to_json(intervals: Intervals) -> dict[str, Any]:
    """Plain values for report.json."""
    return {
        task: {name: found.to_json() for name, found in scores.items()}
        for task, scores in intervals.items()
    }


def _of_task(rows: Sequence[Prediction], *, means_only: bool) -> dict[str, Estimate]:
    names = dict.fromkeys(name for row in rows for name in row.scores)
    found = {name: statistics.mean(_known(rows, name)) for name in names if is_mean(name)}
    others = (metric_of(name) for name in names if not (means_only or is_mean(name)))
    found |= {m.label: _of_all(m, rows) for m in others if m and not isinstance(m, ModelMetric)}
    if any(row.tokens for row in rows):
        nats, tokens = [row.nats for row in rows], [row.tokens for row in rows]
        found[PERPLEXITY] = statistics.perplexity(nats, tokens)
    return found


def _of_all(metric: Metric, rows: Sequence[Prediction]) -> Estimate:
    """A score that is no mean, from the answers; a round's rows have no options to choose from."""
    answered = [_answered(row) for row in rows if metric.label in row.scores]
    return estimate(metric, metric.score_rows(answered))


def _answered(row: Prediction) -> Answered:
    turns = Message("user", row.prompt), Message("assistant", row.expected)
    example = Example(turns, row.task, file="", line=0)
    return Answered(TaskRow(example), row.answer, row.num_tokens, row.is_cut)


def _known(rows: Sequence[Prediction], name: str) -> list[float]:
    """The scores of the rows that were judged; NaN, which is unlike itself, is no judgement."""
    scores = (row.scores[name] for row in rows if name in row.scores)
    return [score for score in scores if score == score]
