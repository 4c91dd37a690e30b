"""All about one version: its report, and what its lineage learned and forgot."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llama_factory.core.types import BASE_VERSION, EvalReport
from llama_factory.evaluation import matrix_intervals, prediction, row_drift
from llama_factory.evaluation.forgetting import Drift, ForgettingMatrix, build_matrix
from llama_factory.evaluation.intervals import Intervals, of_predictions, to_json
from llama_factory.evaluation.prediction import Prediction
from llama_factory.evaluation.scores import higher_is_better
from llama_factory.evaluation.statistics import Estimate
from llama_factory.versions.version import ModelVersion

PREDICTIONS = "predictions.jsonl"
BEFORE = "before.jsonl"
"""What a version's parent answered to the held-out rows of what its round was about to teach."""
BASE = "base.jsonl"
"""What the base model answered to them; none where it is the parent."""
DRIFT = "guard.jsonl"
"""How far a version is from the base model on each general row."""

Answers = Mapping[str, list[Prediction]]
"""By version."""


@dataclass(frozen=True)
class Story:
    """A version with its forebears.

    Attributes:
        version: what the story is about.
        report: its report.
        matrices: task x round, one a metric of which higher is better.
        drift: general ability along the lineage.
        predictions: what each version of the lineage answered to the held-out rows.
        untaught: what they and the base model answered to tasks that they were not taught yet,
            where it was kept.
        left_out: what is wrong with versions of the lineage that cannot be read.
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
        """Those of this version."""
        return of_predictions(self.predictions.get(self.version.id, ()))

    @cached_property
    def intervals(self) -> Mapping[str, Intervals]:
        """95 % intervals by version, task and metric, the base model's among them.

        Of a metric that is no mean those of this version only: each takes many passes over rows.
        """
        answers = _together(self.predictions, self.untaught)
        found = {name: of_predictions(rows, means_only=True) for name, rows in answers.items()}
        found[self.version.id] = {**found.get(self.version.id, {}), **self.own_intervals}
        return found

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
            "intervals": to_json(self.own_intervals),
            "forgetting": {matrix.metric: matrix.to_json() for matrix in self.matrices},
            "drift": self.drift.to_json(),
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for `show --json`."""
        found = self.version.to_json() | {"report": self.report} | self.learned()
        return found | {"left_out": list(self.left_out)}


def tell(
    lineage: Sequence[ModelVersion], version: ModelVersion, *, left_out: Iterable[str] = ()
) -> Story:
    """The story of a version.

    Args:
        lineage: all it was trained from and itself, oldest first, the base version left out.
        version: the last of them, or the base version.
        left_out: what is wrong with those that are missing from the lineage.
    """
    saved = {each.id: each.report for each in lineage}
    reports = {name: EvalReport.from_json(report["evaluation"]) for name, report in saved.items()}
    untaught = _reports(saved.values(), "before")
    base = [*untaught[:1], *_reports(saved.values(), "base")]
    matrices = [
        build_matrix(reports, metric, untaught=untaught, base=base) for metric in _metrics(reports)
    ]
    answered = {each.id: prediction.read(each.folder / PREDICTIONS) for each in lineage}
    early = _untaught(lineage, answered)
    sure = [_with_intervals(matrix, _together(answered, early)) for matrix in matrices]
    drift = _with_row_drift(_drift(saved), lineage)
    return Story(version, version.report, sure, drift, answered, early, tuple(left_out))


def _untaught(lineage: Sequence[ModelVersion], answered: Answers) -> Answers:
    """What was kept of tasks that each round was about to teach."""
    found: defaultdict[str, list[Prediction]] = defaultdict(list)
    for each in lineage:
        taught = {row.task for row in answered.get(each.parent, ())}
        for version, name in ((each.parent, BEFORE), (BASE_VERSION, BASE)):
            rows = prediction.read(each.folder / name)
            found[version] += [row for row in rows if row.task not in taught]
    return found


def _together(first: Answers, second: Answers) -> Answers:
    names = dict.fromkeys([*first, *second])
    return {name: [*first.get(name, ()), *second.get(name, ())] for name in names}


def _with_intervals(matrix: ForgettingMatrix, answers: Answers) -> ForgettingMatrix:
    return replace(matrix, intervals=matrix_intervals.of_matrix(matrix, answers))


def _with_row_drift(drift: Drift, lineage: Sequence[ModelVersion]) -> Drift:
    rows = {each.id: row_drift.read(each.folder / DRIFT) for each in lineage}
    ratios = {name: row_drift.perplexity_ratio(found) for name, found in rows.items()}
    apart = {name: row_drift.token_divergence(found) for name, found in rows.items()}
    return replace(
        drift,
        ratio_intervals=_of_values(drift.versions, drift.ratios, ratios),
        divergence_intervals=_of_values(drift.versions, drift.divergences, apart),
    )


def _of_values(
    names: Iterable[str],
    values: Iterable[float | None],
    found: Mapping[str, Estimate | None],
) -> dict[str, Estimate]:
    """The estimates that are of the values told, and not of other rows or another measurement."""
    pairs = ((name, value, found[name]) for name, value in zip(names, values, strict=True))
    return {
        name: estimate
        for name, value, estimate in pairs
        if value is not None and estimate is not None and _agree(estimate.value, value)
    }


def _agree(first: float, second: float) -> bool:
    """Whether both measure the same; other batches round a little otherwise in bfloat16."""
    return math.isclose(first, second, rel_tol=0.01, abs_tol=1e-6)


def _reports(saved: Iterable[dict[str, Any]], name: str) -> list[EvalReport]:
    return [EvalReport.from_json(report[name]) for report in saved if name in report]


def _metrics(reports: Mapping[str, EvalReport]) -> list[str]:
    """All metrics of the lineage of which higher is better."""
    tasks = [task for report in reports.values() for task in report.tasks.values()]
    names = dict.fromkeys(name for task in tasks for name in task.scores)
    return [name for name in names if higher_is_better(name)]


def _drift(saved: Mapping[str, dict[str, Any]]) -> Drift:
    ratios = []
    for report in saved.values():
        guard = report["evaluation"].get("guard_perplexity")
        base = report.get("base_guard_perplexity")
        ratios.append(guard / base if guard and base else None)
    divergences = tuple(report.get("base_divergence") for report in saved.values())
    return Drift(tuple(saved), tuple(ratios), divergences)
