"""The task x round matrix: what each version of a lineage knows of what each round taught.

R[i, j] is the score on task j after round i. Definitions as in Lopez-Paz and Ranzato 2017
(https://arxiv.org/abs/1706.08840) and Chaudhry et al. 2018 (https://arxiv.org/abs/1801.10112).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llama_factory.core.types import EvalReport


@dataclass(frozen=True)
class ForgettingMatrix:
    """Scores of a lineage under one metric.

    Attributes:
        metric: a metric of which higher is better.
        tasks: columns, in the order they were learned.
        versions: rows, oldest first.
        scores: by (version, task); absent where the task did not exist yet.
    """

    metric: str
    tasks: tuple[str, ...]
    versions: tuple[str, ...]
    scores: Mapping[tuple[str, str], float]

    def row(self, version: str) -> list[float | None]:
        """The scores of one version, in the order of `tasks`."""
        return [self.scores.get((version, task)) for task in self.tasks]

    @property
    def average(self) -> float | None:
        """AA: mean score of the last version over all tasks."""
        return _mean([self.scores.get((self.versions[-1], task)) for task in self.tasks])

    @property
    def learned(self) -> float | None:
        """LA: mean score of each task right after its own round."""
        return _mean([self.scores.get((self._first(task), task)) for task in self.tasks])

    @property
    def backward_transfer(self) -> float | None:
        """BWT: mean change of earlier tasks since their own round; negative is forgetting."""
        return _mean(
            [
                self.scores[self.versions[-1], task] - self.scores[self._first(task), task]
                for task in self._earlier()
            ]
        )

    @property
    def forgetting(self) -> float | None:
        """Mean loss of earlier tasks against their best score before the last round."""
        return _mean(
            [
                max(self.scores[v, task] for v in self.versions[:-1] if (v, task) in self.scores)
                - self.scores[self.versions[-1], task]
                for task in self._earlier()
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "metric": self.metric,
            "tasks": list(self.tasks),
            "versions": list(self.versions),
            "matrix": [self.row(version) for version in self.versions],
            "average": self.average,
            "learned": self.learned,
            "backward_transfer": self.backward_transfer,
            "forgetting": self.forgetting,
        }

    def _first(self, task: str) -> str:
        """The version whose round brought the task."""
        return next(v for v in self.versions if (v, task) in self.scores)

    def _earlier(self) -> list[str]:
        """Tasks of rounds before the last."""
        last = self.versions[-1]
        return [t for t in self.tasks if self._first(t) != last and (last, t) in self.scores]


def build_matrix(reports: Mapping[str, EvalReport], metric: str) -> ForgettingMatrix:
    """The matrix of a lineage.

    Args:
        reports: evaluation of each version by its id, oldest first.
        metric: name of a metric in the reports.
    """
    scores = {
        (version, name): task.scores[metric]
        for version, report in reports.items()
        for name, task in report.tasks.items()
        if metric in task.scores
    }
    tasks = tuple(dict.fromkeys(task for _, task in scores))
    return ForgettingMatrix(metric, tasks, tuple(reports), scores)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
