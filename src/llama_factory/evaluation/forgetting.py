"""The task x round matrix, the numbers it comes to (AA, LA, BWT, forgetting, FWT), their intervals.

R[i, j] is the score on task j after round i; i = 0 is the base model. A round that brought several
groups of rows brought several tasks. Definitions as in Lopez-Paz and Ranzato 2017
(https://arxiv.org/abs/1706.08840) and Chaudhry et al. 2018 (https://arxiv.org/abs/1801.10112);
every mean is over tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from llama_factory.core.types import BASE_VERSION, EvalReport
from llama_factory.evaluation import statistics
from llama_factory.evaluation.scoring import is_mean
from llama_factory.evaluation.statistics import Array, Estimate, Mask
from llama_factory.evaluation.task_rows import Prediction

SAME = 1e-6
"""Most that a reported score may differ from the mean of the stored scores of its rows."""

RowScores = dict[str, float]
"""Scores of a task's rows by the rows' keys."""


@dataclass(frozen=True)
class Cells:
    """A matrix in numbers; NaN where nothing was measured.

    Attributes:
        scores: [resamples, versions, tasks] R[i, j], versions oldest first.
        untaught: [resamples, tasks] R[j-1, j], just before the task's own round.
        base: [resamples, tasks] R[0, j], of the base model.
    """

    scores: Array
    untaught: Array
    base: Array


@dataclass(frozen=True)
class TaskMean:
    """One of the five numbers: a mean over some of the tasks.

    Attributes:
        terms: [resamples, tasks] what is averaged.
        counts: [tasks] whether the mean is over the task.
    """

    terms: Array
    counts: Mask

    @property
    def value(self) -> Array:
        """[resamples]; NaN where it is over no task."""
        if not self.counts.any():
            return np.full(len(self.terms), np.nan)
        means: Array = self.terms[:, self.counts].mean(axis=1)
        return means


def summarise(cells: Cells, measured: Cells) -> dict[str, TaskMean]:
    """The five numbers by name.

    - `average` (AA): score of the last version over all tasks.
    - `learned` (LA): score of each task right after its own round.
    - `backward_transfer` (BWT): change of earlier tasks since their own round; negative is
      forgetting.
    - `forgetting`: loss of earlier tasks against their best score before the last round.
    - `forward_transfer` (FWT): gain over the base model on tasks of later rounds, before these were
      taught.

    Args:
        cells: the matrix, or resamples of it.
        measured: the matrix itself, one resample: it determines which tasks each mean is over.
    """
    seen = ~np.isnan(measured.scores[0])
    own, has_last = seen.argmax(axis=0), seen[-1]
    last, learned = cells.scores[:, -1], cells.scores[:, own, np.arange(seen.shape[1])]
    so_far = np.where(seen, cells.scores, -np.inf)[:, :-1]
    best: Array = so_far.max(axis=1, initial=-np.inf)
    is_earlier = has_last & (own < len(seen) - 1)
    is_later = (own > 0) & ~np.isnan(measured.untaught[0] - measured.base[0])
    return {
        "average": TaskMean(last, has_last),
        "learned": TaskMean(learned, seen.any(axis=0)),
        "backward_transfer": TaskMean(last - learned, is_earlier),
        "forgetting": TaskMean(best - last, is_earlier),
        "forward_transfer": TaskMean(cells.untaught - cells.base, is_later),
    }


@dataclass(frozen=True)
class ForgettingMatrix:
    """Scores of a lineage under one metric.

    Attributes:
        metric: a metric of which higher is better.
        tasks: columns, in the order they were learned.
        versions: rows, oldest first.
        scores: by (version, task); absent where the task did not exist yet.
        untaught: R[j-1, j] by task: the score just before its own round, where it was measured.
        base: R[0, j] by task: the base model's score, where it was measured.
        intervals: 95 % intervals of the five numbers, by name, where they are known.
    """

    metric: str
    tasks: tuple[str, ...]
    versions: tuple[str, ...]
    scores: Mapping[tuple[str, str], float]
    untaught: Mapping[str, float] = field(default_factory=dict)
    base: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Estimate] = field(default_factory=dict)

    def row(self, version: str) -> list[float | None]:
        """The scores of one version, in the order of `tasks`."""
        return [self.scores.get((version, task)) for task in self.tasks]

    def known(self, version: str) -> list[float | None]:
        """The same with the score of each task just before its own round."""
        row = dict(zip(self.tasks, self.row(version), strict=True))
        place = self.versions.index(version) + 1
        for task in self.tasks:
            if place < len(self.versions) and self._first(task) == self.versions[place]:
                row[task] = self.untaught.get(task)
        return list(row.values())

    def lines(self) -> list[tuple[str, list[float | None]]]:
        """The known scores of each version; the base model comes first, if it was measured."""
        rows = [(version, self.known(version)) for version in self.versions]
        base = [self.base.get(task) for task in self.tasks]
        return [(BASE_VERSION, base), *rows] if self.base else rows

    def is_taught(self, version: str, task: str) -> bool:
        """Whether the version had been taught the task when it was scored."""
        return (version, task) in self.scores

    def version_before(self, task: str) -> str:
        """The version that the task's own round began with."""
        place = self.versions.index(self._first(task))
        return self.versions[place - 1] if place else BASE_VERSION

    @cached_property
    def cells(self) -> Cells:
        """The matrix in numbers, one resample."""
        rows = [self.row(version) for version in self.versions]
        untaught = [self.untaught.get(task) for task in self.tasks]
        base = [self.base.get(task) for task in self.tasks]
        return Cells(_numbers(rows), _numbers(untaught), _numbers(base))

    @cached_property
    def summary(self) -> Mapping[str, float | None]:
        """The five numbers by name; None where a number cannot be measured yet."""
        means = summarise(self.cells, self.cells)
        return {name: _known(float(each.value[0])) for name, each in means.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "metric": self.metric,
            "tasks": list(self.tasks),
            "versions": list(self.versions),
            "matrix": [self.row(version) for version in self.versions],
            "base": [self.base.get(task) for task in self.tasks],
            "untaught": [self.untaught.get(task) for task in self.tasks],
            **self.summary,
            "intervals": {name: each.to_json() for name, each in self.intervals.items()},
        }

    def _first(self, task: str) -> str:
        """The version whose round brought the task."""
        return next(v for v in self.versions if (v, task) in self.scores)


def build_matrix(
    reports: Mapping[str, EvalReport],
    metric: str,
    *,
    untaught: Sequence[EvalReport] = (),
    base: Sequence[EvalReport] = (),
) -> ForgettingMatrix:
    """The matrix of a lineage.

    Args:
        reports: evaluation of each version by its id, oldest first.
        metric: name of a metric in the reports.
        untaught: of each round, how its parent did on the new tasks.
        base: of each round, how the base model did on the new tasks.
    """
    scores = {
        (version, name): value
        for version, report in reports.items()
        for name, value in _of_metric(report, metric).items()
    }
    tasks = tuple(dict.fromkeys(task for _, task in scores))
    # the first report that has a task is that of its own round; later ones carry it along
    first = {n: v for each in reversed(untaught) for n, v in _of_metric(each, metric).items()}
    of_base = {n: v for each in base for n, v in _of_metric(each, metric).items()}
    return ForgettingMatrix(metric, tasks, tuple(reports), scores, first, of_base)


def _of_metric(report: EvalReport, metric: str) -> dict[str, float]:
    tasks = report.tasks.items()
    return {name: task.scores[metric] for name, task in tasks if metric in task.scores}


def _numbers(values: Sequence[Any]) -> Array:
    """[1, ...] with NaN for None."""
    return np.array([values], dtype=float)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def summary_intervals(
    matrix: ForgettingMatrix, answers: Mapping[str, Sequence[Prediction]]
) -> dict[str, Estimate]:
    """95 % intervals of those of the five numbers whose stored predictions are complete.

    The rows of each task are resampled on their own, and a row keeps the answers of all versions
    together: what two versions have in common does not widen the interval of a difference.

    A number has no interval where a score is no mean over rows, where the stored scores of the rows
    do not average to the reported score, and where all resamples are alike, which shows nothing.

    Args:
        matrix: under one metric.
        answers: of each version, and of the base model, to the rows of all its tasks.
    """
    if not is_mean(matrix.metric):
        return {}
    scores = _row_scores(matrix, answers)
    tables = [_table([scores.get(each, {}) for each in _columns(matrix, t)]) for t in matrix.tasks]
    measured = matrix.cells
    drawn = [_mean_scores(means) for means in statistics.resampled(tables)]
    stored = [_mean_scores(table.mean(axis=0, keepdims=True)) for table in tables]
    reported = [*measured.scores[0], measured.untaught[0], measured.base[0]]
    is_same = np.abs(np.stack(stored, axis=2)[0] - np.stack(reported)) <= SAME
    cells = np.where(is_same, np.stack(drawn, axis=2), np.nan)
    means = summarise(Cells(cells[:, :-2], cells[:, -2], cells[:, -1]), measured)
    sizes = np.array([len(table) for table in tables])
    estimates = {name: _estimate(matrix, name, each, sizes) for name, each in means.items()}
    return {name: each for name, each in estimates.items() if each.low is not None}


def _estimate(matrix: ForgettingMatrix, name: str, mean: TaskMean, sizes: Array) -> Estimate:
    value, rows = matrix.summary[name], sizes[mean.counts]
    count, drawn = int(rows.sum()), mean.value
    if value is None or rows.min() < 2 or np.ptp(drawn) == 0:
        return Estimate(np.nan if value is None else value, None, None, count)
    return statistics.percentiles(value, drawn, count)


def _row_scores(
    matrix: ForgettingMatrix, answers: Mapping[str, Sequence[Prediction]]
) -> dict[tuple[str, str], RowScores]:
    """By version and task; rows with NaN, which have no score, are left out."""
    scores: dict[tuple[str, str], RowScores] = {}
    for version, rows in answers.items():
        for row in rows:
            score = row.scores.get(matrix.metric)
            if score is not None and not np.isnan(score):
                scores.setdefault((version, row.task), {})[row.key] = score
    return scores


def _columns(matrix: ForgettingMatrix, task: str) -> list[tuple[str, str]]:
    """(version, task) of each score of a task: of all versions, of R[j-1, j], of the base model."""
    parent = matrix.version_before(task)
    return [(version, task) for version in (*matrix.versions, parent, BASE_VERSION)]


def _table(columns: Sequence[RowScores]) -> Array:
    """[rows, 2 x columns]: each row's score, 0 where there is none, and whether there is one."""
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [[part for c in columns for part in (c.get(k, 0.0), float(k in c))] for k in keys]
    return np.array(rows or [[0.0] * (2 * len(columns))])


def _mean_scores(means: Array) -> Array:
    """[resamples, columns] mean score of the rows that have one; NaN where none has."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(means[:, 0::2], means[:, 1::2])
