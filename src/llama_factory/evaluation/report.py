"""A version's report as one HTML file that opens without a server: pictures are inside it."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llama_factory.core import files
from llama_factory.core.types import EvalReport
from llama_factory.evaluation.changes import RowChange, row_changes
from llama_factory.evaluation.forgetting import Drift, ForgettingMatrix
from llama_factory.evaluation.pictures import draw_curves, draw_matrix
from llama_factory.evaluation.prediction import Prediction
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.story import Story

MOST_ROWS = 20
"""Of each list of rows that changed; `llama-factory compare --json` has all of them."""
MEANINGS = (
    ("average", "AA: mean of the last line"),
    ("learned", "LA: mean of each task right after its own round"),
    ("backward_transfer", "BWT: change of earlier tasks since their own round; below 0 is loss"),
    ("forgetting", "loss of earlier tasks against their best so far"),
    ("forward_transfer", "FWT: gain over the base model on tasks not yet taught"),
)


def write_report(story: Story, path: Path) -> None:
    """Write the whole page."""
    files.write_text(path, page(story))


def page(story: Story) -> str:
    """The page as HTML; every text in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html.jinja")
    metrics, scores = _scores(story)
    return template.render(
        version=story.version,
        verdict=story.report.get("verdict"),
        ends=story.report.get("ends", []),
        metrics=metrics,
        scores=scores,
        matrices=[_matrix(story, matrix) for matrix in story.matrices],
        drift=_drift(story.drift),
        changes=_changes(story),
        training=_training(story.report.get("training", {})),
    )


def write_pictures(story: Story, folder: Path) -> list[Path]:
    """The heat map and the curves of the metric that was named last, as PNG files."""
    if not story.matrices:
        return []
    matrix = story.matrices[-1]
    heat_map, curves = folder / "forgetting.png", folder / "curves.png"
    draw_matrix(matrix, heat_map)
    draw_curves(matrix, story.drift, curves, _of_metric(story, matrix.metric))
    return [heat_map, curves]


def _of_metric(story: Story, metric: str) -> dict[tuple[str, str], Estimate]:
    """Scores with 95 % intervals by (version, task)."""
    return {
        (version, task): scores[metric]
        for version, tasks in story.intervals.items()
        for task, scores in tasks.items()
        if metric in scores
    }


def _scores(story: Story) -> tuple[list[str], list[dict[str, Any]]]:
    """Column names, and a line a task with score, interval and the parent's score."""
    tasks = EvalReport.from_json(story.report["evaluation"]).tasks
    before = EvalReport.from_json(story.report.get("before", story.report["evaluation"])).tasks
    names = list(dict.fromkeys(name for task in tasks.values() for name in task.scores))
    found = story.own_intervals
    lines = []
    for task in tasks.values():
        old = before[task.task].scores if task.task in before else {}
        cells = [
            _cell(task.scores.get(name), found.get(task.task, {}).get(name), old.get(name))
            for name in names
        ]
        lines.append({"task": task.task, "count": task.count, "cells": cells})
    return names, lines


def _cell(value: float | None, found: Estimate | None, before: float | None) -> dict[str, str]:
    has_interval = found is not None and found.low is not None
    return {
        "value": number(value),
        "interval": interval(found) if has_interval and found is not None else "",
        "before": "" if before is None else number(before),
    }


def _matrix(story: Story, matrix: ForgettingMatrix) -> dict[str, Any]:
    found = _of_metric(story, matrix.metric)
    rows = [{"name": v, "cells": list(map(number, matrix.row(v)))} for v in matrix.versions]
    values = matrix.to_json()
    pictures = [
        _picture("heat map of tasks and versions", lambda file: draw_matrix(matrix, file)),
        _picture(
            "scores from version to version",
            lambda file: draw_curves(matrix, story.drift, file, found),
        ),
    ]
    return {
        "metric": matrix.metric,
        "tasks": matrix.tasks,
        "rows": rows,
        "summary": [(name, number(values[name]), meaning) for name, meaning in MEANINGS],
        "pictures": pictures,
    }


def _picture(alt: str, draw: Callable[[BinaryIO], None]) -> dict[str, str]:
    file = io.BytesIO()
    draw(file)
    content = base64.b64encode(file.getvalue()).decode()
    return {"alt": alt, "source": f"data:image/png;base64,{content}"}


def _drift(drift: Drift) -> list[dict[str, str]]:
    rows = zip(drift.versions, drift.ratios, drift.divergences, strict=True)
    return [
        {"version": version, "ratio": number(ratio), "divergence": number(divergence, 3)}
        for version, ratio, divergence in rows
    ]


def _changes(story: Story) -> list[tuple[str, list[RowChange], int]]:
    """Rows that got worse and better since the parent, on the tasks that both answered."""
    own = story.predictions.get(story.version.id, ())
    parent = _by_row(story.predictions.get(story.version.parent, ()))
    shared = [new for new in own if new.key and (new.task, new.key) in parent]
    worse, better = row_changes([parent[new.task, new.key] for new in shared], shared)
    titles = (("Answers that got worse", worse), ("Answers that got better", better))
    return [(title, rows[:MOST_ROWS], len(rows)) for title, rows in titles if rows]


def _by_row(predictions: Sequence[Prediction]) -> Mapping[tuple[str, str], Prediction]:
    return {(each.task, each.key): each for each in predictions}


def _training(training: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("steps", "tokens", "seconds", "tokens_per_second", "loss")
    return [(name, f"{training[name]:.6g}") for name in names if name in training]


def number(value: float | None, digits: int = 2) -> str:
    """A number as it is printed for people."""
    return "-" if value is None or value != value else f"{value:.{digits}f}"  # NaN is unlike itself


def interval(found: Estimate, digits: int = 2) -> str:
    """`0.41-0.66`; nothing where it is not known."""
    if found.low is None or found.high is None:
        return ""
    return f"{found.low:.{digits}f} – {found.high:.{digits}f}"
