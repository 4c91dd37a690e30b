"""A version's report together with what its lineage learned and forgot, read from its folders."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llama_factory.core.types import BASE_VERSION, EvalReport
from llama_factory.evaluation.drift import (
    Drift,
    perplexity_ratio,
    read_row_drift,
    token_divergence,
)
from llama_factory.evaluation.forgetting import ForgettingMatrix, build_matrix, summary_intervals
from llama_factory.evaluation.scoring import (
    Intervals,
    higher_is_better,
    intervals_to_json,
    score_intervals,
)
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.task_rows import Prediction, read_predictions
from llama_factory.versions.version import ModelVersion

PREDICTIONS = "predictions.jsonl"
BEFORE = "before.jsonl"
"""Answers of a version's parent to the held-out rows of what its round was about to teach."""
BASE = "base.jsonl"
"""Answers of the base model to the same rows; no file where it is the parent."""
COMPLAINTS = "complaints.jsonl"
"""Answers of a version to the complaints that it and its lineage were taught."""
DRIFT = "guard.jsonl"
"""How far a version is from the base model on each general row."""

Answers = Mapping[str, list[Prediction]]
"""By version."""


@dataclass(frozen=True)
class LineageScores:
    """The scores of a version and of all versions that it was trained from.

    Attributes:
        version: the last of its lineage.
        report: its report.
        matrices: task x round, one a metric of which higher is better.
        drift: general ability along the lineage.
        predictions: answers of each version of the lineage to the held-out rows.
        untaught: answers of these and of the base model to tasks that they were not taught yet,
            where these were stored.
        left_out: problems of versions of the lineage that cannot be read.
    """

    version: ModelVersion
    report: dict[str, Any]
    matrices: list[ForgettingMatrix]
    drift: Drift
    predictions: Answers
    untaught: Answers
    left_out: tuple[str, ...] = ()

    @cached_property
    def own_intervals(self) -> Intervals:
        """95 % intervals of this version's scores."""
        return score_intervals(self.predictions.get(self.version.id, ()))

    @cached_property
    def intervals(self) -> Mapping[str, Intervals]:
        """95 % intervals by version, task and metric, the base model's among them.

        Of a metric that is no mean those of this version only: each takes many passes over rows.
        """
        answers = _joined(self.predictions, self.untaught)
        intervals = {v: score_intervals(rows, means_only=True) for v, rows in answers.items()}
        intervals[self.version.id] = {**intervals.get(self.version.id, {}), **self.own_intervals}
        return intervals

    def of_metric(self, metric: str) -> dict[tuple[str, str], Estimate]:
        """Scores with 95 % intervals by version and task."""
        return {
            (version, task): scores[metric]
            for version, tasks in self.intervals.items()
            for task, scores in tasks.items()
            if metric in scores
        }

    def learned(self) -> dict[str, Any]:
        """What the lineage learned and forgot, as plain values: for report.json and `show`."""
        return {
            "intervals": intervals_to_json(self.own_intervals),
            "forgetting": {matrix.metric: matrix.to_json() for matrix in self.matrices},
            "drift": self.drift.to_json(),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for `show --json`."""
        values = self.version.to_json() | {"report": self.report} | self.learned()
        return values | {"left_out": list(self.left_out)}


def read_lineage_scores(
    lineage: Sequence[ModelVersion], version: ModelVersion, *, left_out: Iterable[str] = ()
) -> LineageScores:
    """Read reports, predictions and drift of a lineage from the folders of its versions.

    Args:
        lineage: all it was trained from and itself, oldest first, the base version left out.
        version: the last of them, or the base version.
        left_out: problems of those that are missing from the lineage.
    """
    saved = {each.id: each.report for each in lineage}
    reports = {name: EvalReport.from_json(report["evaluation"]) for name, report in saved.items()}
    untaught = _reports(saved.values(), "before")
    base = [*untaught[:1], *_reports(saved.values(), "base")]
    predictions = {each.id: read_predictions(each.folder / PREDICTIONS) for each in lineage}
    early = _untaught(lineage, predictions)
    answers = _joined(predictions, early)
    matrices = [
        _matrix(build_matrix(reports, metric, untaught=untaught, base=base), answers)
        for metric in _metrics(reports)
    ]
    drift = _drift(saved, lineage)
    return LineageScores(
        version, version.report, matrices, drift, predictions, early, tuple(left_out)
    )


def _untaught(lineage: Sequence[ModelVersion], predictions: Answers) -> Answers:
    """The stored answers to the tasks that each round was about to teach."""
    answers: defaultdict[str, list[Prediction]] = defaultdict(list)
    for each in lineage:
        taught = {row.task for row in predictions.get(each.parent, ())}
        for version, name in ((each.parent, BEFORE), (BASE_VERSION, BASE)):
            rows = read_predictions(each.folder / name)
            answers[version] += [row for row in rows if row.task not in taught]
    return answers


def _joined(first: Answers, second: Answers) -> Answers:
    names = dict.fromkeys([*first, *second])
    return {name: [*first.get(name, ()), *second.get(name, ())] for name in names}


def _matrix(matrix: ForgettingMatrix, answers: Answers) -> ForgettingMatrix:
    return replace(matrix, intervals=summary_intervals(matrix, answers))


def _reports(saved: Iterable[dict[str, Any]], name: str) -> list[EvalReport]:
    return [EvalReport.from_json(report[name]) for report in saved if name in report]


def _metrics(reports: Mapping[str, EvalReport]) -> list[str]:
    """All metrics of the lineage of which higher is better."""
    tasks = [task for report in reports.values() for task in report.tasks.values()]
    names = dict.fromkeys(name for task in tasks for name in task.scores)
    return [name for name in names if higher_is_better(name)]


def _drift(saved: Mapping[str, dict[str, Any]], lineage: Sequence[ModelVersion]) -> Drift:
    ratios = {name: _ratio(report) for name, report in saved.items()}
    divergences = {name: report.get("base_divergence") for name, report in saved.items()}
    rows = {each.id: read_row_drift(each.folder / DRIFT) for each in lineage}
    return Drift(
        tuple(saved),
        tuple(ratios.values()),
        tuple(divergences.values()),
        _agreeing(ratios, {name: perplexity_ratio(each) for name, each in rows.items()}),
        _agreeing(divergences, {name: token_divergence(each) for name, each in rows.items()}),
    )


def _ratio(report: Mapping[str, Any]) -> float | None:
    """Perplexity on the guard over the base model's."""
    guard = report["evaluation"].get("guard_perplexity")
    base = report.get("base_guard_perplexity")
    return guard / base if guard and base else None


def _agreeing(
    values: Mapping[str, float | None], estimates: Mapping[str, Estimate | None]
) -> dict[str, Estimate]:
    """The estimates that fit the reported values; others are of other rows or measurements."""
    return {
        name: estimate
        for name, value in values.items()
        if value is not None
        and (estimate := estimates[name]) is not None
        and _agree(estimate.value, value)
    }


def _agree(first: float, second: float) -> bool:
    """Whether both measure the same; other batches round a little otherwise in bfloat16."""
    return math.isclose(first, second, rel_tol=0.01, abs_tol=1e-6)
