"""The scores on each task from version to version, with intervals."""

from collections.abc import Mapping
from typing import Any

from llama_factory.web.charts.curves import Plot, Sample, plot

MOST_VERSIONS = 20
MOST_TASKS = 6
"""The newest tasks: more lines cannot be told from each other."""


def drawn_versions(report: Mapping[str, Any], metric: str) -> list[str]:
    """The versions whose scores are drawn, oldest first."""
    saved = report.get("forgetting", {}).get(metric) or {"versions": []}
    return list(saved["versions"][-MOST_VERSIONS:])


def task_scores(
    report: Mapping[str, Any], metric: str, intervals: Mapping[str, Mapping[str, Any]]
) -> Plot | None:
    """The picture; None where nothing was measured.

    Args:
        report: of the last version of a lineage.
        metric: whose scores.
        intervals: of each version, as its report has them.
    """
    versions = drawn_versions(report, metric)
    if not versions:
        return None
    saved = report["forgetting"][metric]
    lines = saved["matrix"][-len(versions) :]
    series = {}
    for number, task in list(enumerate(saved["tasks"]))[-MOST_TASKS:]:
        scores = [line[number] for line in lines]
        series[task] = [
            _sample(n, version, score, intervals.get(version, {}).get(task, {}).get(metric))
            for n, (version, score) in enumerate(zip(versions, scores, strict=True))
            if score is not None
        ]
    step = max(1, len(versions) // 8)
    labels = {float(n): version for n, version in enumerate(versions) if n % step == 0}
    return plot(series, labels, between=(0.0, 1.0))


def _sample(place: int, version: str, score: float, interval: Mapping[str, Any] | None) -> Sample:
    low, high = (interval or {}).get("low"), (interval or {}).get("high")
    known = f" ({low:.2f} – {high:.2f})" if low is not None and high is not None else ""
    return Sample(place, score, low, high, f"{version}: {score:.2f}{known}")
