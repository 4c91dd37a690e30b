"""95 % intervals of AA, LA, BWT, forgetting and FWT, from the answers that the rounds kept.

The rows of each task are resampled on their own, and a row keeps the answers of all versions
together: what two versions have in common does not widen the interval of a difference.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from llama_factory.core.types import BASE_VERSION
from llama_factory.evaluation import statistics
from llama_factory.evaluation.forgetting import ForgettingMatrix
from llama_factory.evaluation.prediction import Prediction
from llama_factory.evaluation.scores import is_mean
from llama_factory.evaluation.statistics import Array, Estimate
from llama_factory.evaluation.transfer import Cells, Summary, summaries

SAME = 1e-6
"""Most that a score may differ from the mean of the rows that are told to be behind it."""

Judged = dict[str, float]
"""Scores of a task's rows by the rows' keys."""


def of_matrix(
    matrix: ForgettingMatrix, answers: Mapping[str, Sequence[Prediction]]
) -> dict[str, Estimate]:
    """The intervals of those of the five numbers whose rows are all at hand.

    None is given where a score is no mean over rows, where the kept answers do not come to the
    score that was reported, and where all resamples are alike, which tells nothing.

    Args:
        matrix: under one metric.
        answers: of each version, and of the base model, to the rows of all tasks it was asked.
    """
    if not is_mean(matrix.metric):
        return {}
    judged = _judged(matrix, answers)
    tables = [_table([judged.get(each, {}) for each in _asked(matrix, t)]) for t in matrix.tasks]
    measured = matrix.cells
    drawn = [_scores(means) for means in statistics.resampled(tables)]
    kept = [_scores(table.mean(axis=0, keepdims=True)) for table in tables]
    wanted = [*measured.scores[0], measured.untaught[0], measured.base[0]]
    is_same = np.abs(np.stack(kept, axis=2)[0] - np.stack(wanted)) <= SAME
    cells = np.where(is_same, np.stack(drawn, axis=2), np.nan)
    found = summaries(Cells(cells[:, :-2], cells[:, -2], cells[:, -1]), measured)
    sizes = np.array([len(table) for table in tables])
    estimates = {name: _estimate(matrix, name, each, sizes) for name, each in found.items()}
    return {name: each for name, each in estimates.items() if each.low is not None}


def _estimate(matrix: ForgettingMatrix, name: str, found: Summary, sizes: Array) -> Estimate:
    value, rows = matrix.summary[name], sizes[found.counts]
    count, drawn = int(rows.sum()), found.mean
    if value is None or rows.min() < 2 or np.ptp(drawn) == 0:
        return Estimate(np.nan if value is None else value, None, None, count)
    return statistics.percentiles(value, drawn, count)


def _judged(
    matrix: ForgettingMatrix, answers: Mapping[str, Sequence[Prediction]]
) -> dict[tuple[str, str], Judged]:
    """By version and task; NaN, which is unlike itself, is no judgement."""
    found: dict[tuple[str, str], Judged] = {}
    for version, rows in answers.items():
        for row in rows:
            score = row.scores.get(matrix.metric)
            if score is not None and score == score:
                found.setdefault((version, row.task), {})[row.key] = score
    return found


def _asked(matrix: ForgettingMatrix, task: str) -> list[tuple[str, str]]:
    """Whose answers make the task's column: each version's, its own round's parent's, the base's"""
    parent = matrix.version_before(task)
    return [(version, task) for version in (*matrix.versions, parent, BASE_VERSION)]


def _table(columns: Sequence[Judged]) -> Array:
    """[rows, 2 x columns]: each row's score, 0 where there is none, and whether there is one."""
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [[part for c in columns for part in (c.get(k, 0.0), float(k in c))] for k in keys]
    return np.array(rows or [[0.0] * (2 * len(columns))])


def _scores(means: Array) -> Array:
    """[resamples, columns] the mean score of the rows that were judged; NaN where none was."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(means[:, 0::2], means[:, 1::2])
