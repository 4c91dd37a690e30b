"""The task x round matrix: what each version of a lineage knows of what each round taught.

R[i, j] is the score on task j after round i; i = 0 is the base model. A round that brought several
groups of rows brought several tasks. What the matrix comes to is in `transfer.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from llama_factory.core.types import BASE_VERSION, EvalReport
from llama_factory.evaluation.statistics import Array, Estimate
from llama_factory.evaluation.transfer import Cells, summaries


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
        intervals: 95 % intervals of what it comes to, by name, where they are known.
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
        """The same with what was measured of each task just before it was taught."""
        row = dict(zip(self.tasks, self.row(version), strict=True))
        place = self.versions.index(version) + 1
        for task in self.tasks:
            if place < len(self.versions) and self._first(task) == self.versions[place]:
                row[task] = self.untaught.get(task)
        return list(row.values())

    def lines(self) -> list[tuple[str, list[float | None]]]:
        """All that is known of each version; the base model comes first, if it was asked."""
        rows = [(version, self.known(version)) for version in self.versions]
        base = [self.base.get(task) for task in self.tasks]
        return [(BASE_VERSION, base), *rows] if self.base else rows

    def is_taught(self, version: str, task: str) -> bool:
        """Whether the version was taught the task by the time it was asked."""
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
        """What the matrix comes to, by name; None where nothing was measured of it."""
        found = summaries(self.cells, self.cells)
        return {name: _known(float(each.mean[0])) for name, each in found.items()}

    @property
    def average(self) -> float | None:
        """AA: mean score of the last version over all tasks."""
        return self.summary["average"]

    @property
    def learned(self) -> float | None:
        """LA: mean score of each task right after its own round."""
        return self.summary["learned"]

    @property
    def backward_transfer(self) -> float | None:
        """BWT: mean change of earlier tasks since their own round; negative is forgetting."""
        return self.summary["backward_transfer"]

    @property
    def forgetting(self) -> float | None:
        """Mean loss of earlier tasks against their best score before the last round."""
        return self.summary["forgetting"]

    @property
    def forward_transfer(self) -> float | None:
        """FWT: mean gain on tasks of later rounds, over the base model, before they were taught."""
        return self.summary["forward_transfer"]

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
            "intervals": {name: found.to_json() for name, found in self.intervals.items()},
        }

    def _first(self, task: str) -> str:
        """The version whose round brought the task."""
        return next(v for v in self.versions if (v, task) in self.scores)


@dataclass(frozen=True)
class Drift:
    """How far each version of a lineage has moved from the base model on general text.

    Attributes:
        versions: oldest first.
        ratios: perplexity on the guard over the base model's; None where it was not measured.
        divergences: mean KL(version || base) a token in nats, on the guard's answers.
        ratio_intervals: 95 % intervals of the ratios by version, where they are known.
        divergence_intervals: the same of the divergences.
    """

    versions: tuple[str, ...]
    ratios: tuple[float | None, ...]
    divergences: tuple[float | None, ...]
    ratio_intervals: Mapping[str, Estimate] = field(default_factory=dict)
    divergence_intervals: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "versions": list(self.versions),
            "perplexity_ratio": list(self.ratios),
            "divergence": list(self.divergences),
            "intervals": {
                "perplexity_ratio": self._in_order(self.ratio_intervals),
                "divergence": self._in_order(self.divergence_intervals),
            },
        }

    def _in_order(self, found: Mapping[str, Estimate]) -> list[dict[str, Any] | None]:
        return [found[name].to_json() if name in found else None for name in self.versions]


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
