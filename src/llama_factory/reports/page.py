"""A version's report as one HTML file that opens without a server: pictures are inside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llama_factory.core import files
from llama_factory.core.types import EvalReport
from llama_factory.evaluation.comparison import RowChange, row_changes
from llama_factory.evaluation.drift import Drift
from llama_factory.evaluation.forgetting import ForgettingMatrix
from llama_factory.evaluation.lineage_scores import LineageScores
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.task_rows import Prediction
from llama_factory.evaluation.wording import IN_BRACKETS, MEANINGS, cell, interval, number, row_name
from llama_factory.evaluation.wording import verdict as word
from llama_factory.reports.pictures import draw_curves, draw_matrix

HEAT_MAP, CURVES = "forgetting.png", "curves.png"
"""Pictures of the metric that was named last."""
MOST_ROWS = 20
"""Of each list of rows that changed; `llama-factory compare --json` has all of them."""


def write_pages(lineage: LineageScores, folder: Path) -> None:
    """The page and the pictures that lie in a version's folder."""
    drawn = draw(lineage)
    files.write_text(folder / "report.html", page(lineage, drawn))
    for heat_map, curves in drawn[-1:]:
        (folder / HEAT_MAP).write_bytes(heat_map)
        (folder / CURVES).write_bytes(curves)


def write_report(lineage: LineageScores, path: Path) -> None:
    """Write the whole page."""
    files.write_text(path, page(lineage, draw(lineage)))


def draw(lineage: LineageScores) -> list[tuple[bytes, bytes]]:
    """The heat map and the curves of each matrix, as PNG files."""
    return [_drawn(lineage, matrix) for matrix in lineage.matrices]


def _drawn(lineage: LineageScores, matrix: ForgettingMatrix) -> tuple[bytes, bytes]:
    heat_map, curves = io.BytesIO(), io.BytesIO()
    draw_matrix(matrix, heat_map)
    draw_curves(matrix, lineage.drift, curves, lineage.of_metric(matrix.metric))
    return heat_map.getvalue(), curves.getvalue()


def page(lineage: LineageScores, drawn: Sequence[tuple[bytes, bytes]]) -> str:
    """The page as HTML; every text in it is escaped.

    Args:
        lineage: of the version.
        drawn: the pictures of its matrices.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    metrics, scores = _scores(lineage)
    verdict = lineage.report.get("verdict")
    return template.render(
        version=lineage.version,
        verdict=_verdict(verdict),
        gate=word(promoted=verdict["promoted"], held=verdict.get("held", False)) if verdict else "",
        left_out=lineage.left_out,
        consolidated=lineage.report.get("consolidated"),
        ends=lineage.report.get("ends", []),
        metrics=metrics,
        scores=scores,
        in_brackets=IN_BRACKETS,
        matrices=[_matrix(lineage, *both) for both in zip(lineage.matrices, drawn, strict=True)],
        drift=_drift(lineage.drift),
        costs=_costs(lineage.report.get("strategies", {})),
        changes=_changes(lineage),
        complaints=_complaints(lineage.report.get("complaints")),
        training=_training(lineage.report.get("training", {})),
    )


def _verdict(saved: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """As it was saved; earlier reports do not say which checks were undecided."""
    if not saved:
        return None
    return {**saved, "checks": [{"undecided": False} | check for check in saved["checks"]]}


def write_pictures(lineage: LineageScores, heat_map: Path | None, curves: Path | None) -> None:
    """The matrix of the metric that was named last, and its scores from version to version.

    Nothing for the untouched base model, and for what has no path.
    """
    for matrix in lineage.matrices[-1:]:
        if heat_map is not None:
            draw_matrix(matrix, heat_map)
        if curves is not None:
            draw_curves(matrix, lineage.drift, curves, lineage.of_metric(matrix.metric))


def _scores(lineage: LineageScores) -> tuple[list[str], list[dict[str, Any]]]:
    """Column names, and a line a task with score, interval and the parent's score."""
    tasks = EvalReport.from_json(lineage.report["evaluation"]).tasks
    before = EvalReport.from_json(lineage.report.get("before", lineage.report["evaluation"])).tasks
    names = list(dict.fromkeys(name for task in tasks.values() for name in task.scores))
    intervals = lineage.own_intervals
    lines = []
    for task in tasks.values():
        old = before[task.task].scores if task.task in before else {}
        cells = [
            _cell(task.scores.get(name), intervals.get(task.task, {}).get(name), old.get(name))
            for name in names
        ]
        lines.append({"task": task.task, "count": task.count, "cells": cells})
    return names, lines


def _cell(value: float | None, estimate: Estimate | None, before: float | None) -> dict[str, str]:
    return {
        "value": number(value),
        "interval": interval(estimate),
        "before": "" if before is None else number(before),
    }


def _matrix(
    lineage: LineageScores, matrix: ForgettingMatrix, drawn: tuple[bytes, bytes]
) -> dict[str, Any]:
    intervals = lineage.of_metric(matrix.metric)
    alts = "heat map of tasks and versions", "scores from version to version"
    pictures = [_picture(alt, content) for alt, content in zip(alts, drawn, strict=True)]
    return {
        "metric": matrix.metric,
        "tasks": matrix.tasks,
        "rows": [_row(matrix, name, scores, intervals) for name, scores in matrix.lines()],
        "summary": [_summary(matrix, name, meaning) for name, meaning in MEANINGS],
        "pictures": pictures,
    }


def _row(
    matrix: ForgettingMatrix,
    version: str,
    scores: Sequence[float | None],
    intervals: Mapping[tuple[str, str], Estimate],
) -> dict[str, Any]:
    cells = [
        {
            "value": cell(score, is_taught=matrix.is_taught(version, task)),
            "interval": "" if score is None else interval(intervals.get((version, task))),
        }
        for task, score in zip(matrix.tasks, scores, strict=True)
    ]
    return {"name": row_name(version), "cells": cells}


def _summary(matrix: ForgettingMatrix, name: str, meaning: str) -> dict[str, str]:
    return {
        "name": name.replace("_", " "),
        "value": number(matrix.summary[name]),
        "interval": interval(matrix.intervals.get(name)),
        "meaning": meaning,
    }


def _picture(alt: str, content: bytes) -> dict[str, str]:
    return {"alt": alt, "source": f"data:image/png;base64,{base64.b64encode(content).decode()}"}


def _drift(drift: Drift) -> list[dict[str, str]]:
    rows = zip(drift.versions, drift.ratios, drift.divergences, strict=True)
    return [
        {
            "version": version,
            "ratio": number(ratio),
            "ratio_interval": interval(drift.ratio_intervals.get(version)),
            "divergence": number(divergence, 3),
            "divergence_interval": interval(drift.divergence_intervals.get(version), 3),
        }
        for version, ratio, divergence in rows
    ]


def _costs(strategies: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str, str]]:
    """Of each strategy: its name, seconds in its hooks, bytes kept."""
    return [
        (name, f"{cost['hook_seconds']:.1f}", f"{cost['bytes']:,}")
        for name, cost in strategies.items()
    ]


def _changes(lineage: LineageScores) -> list[tuple[str, list[RowChange], int]]:
    """Rows that got worse and better since the parent, on the tasks that both answered."""
    own = lineage.predictions.get(lineage.version.id, ())
    parent = _by_row(lineage.predictions.get(lineage.version.parent, ()))
    shared = [new for new in own if new.key and (new.task, new.key) in parent]
    worse, better = row_changes([parent[new.task, new.key] for new in shared], shared)
    titles = (("Answers that got worse", worse), ("Answers that got better", better))
    return [(title, rows[:MOST_ROWS], len(rows)) for title, rows in titles if rows]


def _complaints(report: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The sentence, and a line a complaint, those that are still answered wrongly first."""
    if not report:
        return None
    lines = [
        each
        | {
            "before_nats": number(each["nats_before"]),
            "after_nats": number(each["nats_after"]),
            "word": each["is_right"] or "wrong",
        }
        for each in sorted(report["rows"], key=lambda each: bool(each["is_right"]))
    ]
    left_out = len(lines) - MOST_ROWS
    return {"sentence": report["sentence"], "rows": lines[:MOST_ROWS], "left_out": left_out}


def _by_row(predictions: Sequence[Prediction]) -> Mapping[tuple[str, str], Prediction]:
    return {(each.task, each.key): each for each in predictions}


def _training(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("steps", "tokens", "seconds", "tokens_per_second", "loss")
    return [(name, f"{training[name]:.6g}") for name in names if name in training]
