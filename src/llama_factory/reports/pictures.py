"""Pictures of what was learned and forgotten."""

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from llama_factory.core.types import BASE_VERSION
from llama_factory.evaluation.drift import Drift
from llama_factory.evaluation.forgetting import ForgettingMatrix
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.wording import cell, row_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Target = Path | BinaryIO
"""Where a picture goes, as PNG."""
DARK_BELOW = 0.6
"""Cells darker than this are written in white."""
CHINESE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "SimHei")
"""Fonts with Chinese characters, for names of groups."""
CHINESE_FILES = ("notosanscjk", "wqy-microhei", "simhei")
"""Beginnings of the names of their files."""

logger = logging.getLogger(__name__)


def draw_matrix(matrix: ForgettingMatrix, target: Target) -> None:
    """A heat map of the task x round matrix as PNG: columns are tasks, rows are rounds.

    In brackets: the score before the task was taught, where it was measured.
    """
    with readable_names("".join(matrix.tasks)):
        matrix_figure(matrix).savefig(target, format="png", dpi=130, bbox_inches="tight")


def matrix_figure(matrix: ForgettingMatrix) -> "Figure":
    """The heat map before it is written."""
    import matplotlib as mpl
    import numpy as np
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed

    rows = matrix.lines()
    values = np.array([[_plain(value) for value in row] for _, row in rows], dtype=float)
    figure = Figure(figsize=(2.5 + 1.5 * len(matrix.tasks), 1.8 + 0.7 * len(rows)))
    axes = figure.subplots()
    top = max(1.0, float(np.nanmax(values, initial=0.0)))
    image = axes.imshow(values, cmap=mpl.colormaps["viridis"], vmin=0, vmax=top, aspect="auto")
    for i, j in np.argwhere(~np.isnan(values)):
        shade = "white" if values[i, j] < DARK_BELOW * top else "black"
        text = cell(values[i, j], is_taught=matrix.is_taught(rows[i][0], matrix.tasks[j]))
        axes.text(j, i, text, ha="center", va="center", color=shade)
    axes.set_xticks(range(len(matrix.tasks)), matrix.tasks, rotation=20, ha="right")
    axes.set_yticks(range(len(rows)), [row_name(name) for name, _ in rows])
    axes.set_xlabel("held-out questions of")
    axes.set_title(f"What each version knows ({matrix.metric})", fontsize=11)
    figure.colorbar(image, ax=axes, fraction=0.05)
    return figure


def _plain(value: float | None) -> float:
    return math.nan if value is None else value


def draw_curves(
    matrix: ForgettingMatrix,
    drift: Drift,
    target: Target,
    intervals: Mapping[tuple[str, str], Estimate] | None = None,
) -> None:
    """How the score of each task, and general ability, moved from version to version, as PNG.

    Args:
        matrix: under one metric.
        drift: of the same lineage.
        target: of the picture.
        intervals: scores with 95 % intervals by (version, task), where they are known.
    """
    with readable_names("".join(matrix.tasks)):
        figure = curves_figure(matrix, drift, intervals or {})
        figure.savefig(target, format="png", dpi=120, bbox_inches="tight")


def curves_figure(
    matrix: ForgettingMatrix, drift: Drift, intervals: Mapping[tuple[str, str], Estimate]
) -> "Figure":
    """The curves before they are written."""
    from matplotlib.figure import Figure

    names = [name for name, _ in matrix.lines()]
    has_drift = any(ratio is not None for ratio in drift.ratios)
    figure = Figure(figsize=(2.5 + 1.6 * len(names), 5.6 if has_drift else 3.8))
    heights = [2.4, 1.0] if has_drift else [1.0]
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
    _draw_tasks(panels[0, 0], matrix, intervals)
    if has_drift:
        _draw_drift(panels[1, 0], matrix, drift)
    panels[-1, 0].set_xticks(range(len(names)), [row_name(name) for name in names])
    return figure


def _draw_tasks(
    axes: Any, matrix: ForgettingMatrix, intervals: Mapping[tuple[str, str], Estimate]
) -> None:
    names = [name for name, _ in matrix.lines()]
    columns = zip(*(row for _, row in matrix.lines()), strict=True)
    for number, (task, scores) in enumerate(zip(matrix.tasks, columns, strict=True)):
        shift = 0.04 * (number - (len(matrix.tasks) - 1) / 2)
        places = [place + shift for place in range(len(names))]
        axes.plot(places, [_plain(score) for score in scores], marker="o", label=task)
        color = axes.lines[-1].get_color()
        for place, name in zip(places, names, strict=True):
            _draw_bar(axes, place, intervals.get((name, task)), color)
    axes.set_ylabel(matrix.metric)
    axes.set_ylim(bottom=-0.03)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title("Score of each task after each round (bars: 95 %)", fontsize=11)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9)


def _draw_bar(axes: Any, place: float, estimate: Estimate | None, color: Any) -> None:
    if estimate is not None and estimate.low is not None and estimate.high is not None:
        axes.plot([place, place], [estimate.low, estimate.high], color=color, alpha=0.45)


def _draw_drift(axes: Any, matrix: ForgettingMatrix, drift: Drift) -> None:
    names = [name for name, _ in matrix.lines()]
    known = {BASE_VERSION: 1.0, **dict(zip(drift.versions, drift.ratios, strict=True))}
    points = [_plain(known.get(name)) for name in names]
    axes.plot(range(len(names)), points, marker="s", color="tab:gray")
    for place, name in enumerate(names):
        _draw_bar(axes, place, drift.ratio_intervals.get(name), "tab:gray")
    axes.axhline(1.0, linewidth=0.8, linestyle=":", color="black")
    axes.margins(y=0.25)
    axes.set_ylabel("general perplexity,\ntimes the base's", fontsize=9)
    axes.grid(axis="y", alpha=0.3)


PICTURES = {
    "eval_loss": "eval_loss",
    "eval_reward_accuracy": "eval_accuracy",
    "reward_accuracy": "rewards_accuracies",
    "reward_chosen": "rewards_chosen",
}
"""Number of a run -> its picture, training_NAME.png, as LLaMA-Factory names it."""


def draw_courses(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Pictures of the course of a run: training_loss.png, and one of each other number it has.

    Args:
        rows: the numbers of every update.
        folder: gets the pictures.
    """
    draw_loss(rows, folder / "training_loss.png")
    for name, shown in PICTURES.items():
        if any(name in row for row in rows):
            _draw_number(rows, name, folder / f"training_{shown}.png")


def _draw_number(rows: Sequence[Mapping[str, Any]], name: str, path: Path) -> None:
    """One number by step, as PNG."""
    from matplotlib.figure import Figure

    measured = [row for row in rows if row.get(name) is not None and math.isfinite(row[name])]
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    steps, values = [row["step"] for row in measured], [row[name] for row in measured]
    axes.plot(steps, values, marker="o" if len(measured) < len(rows) else "", alpha=0.7)
    axes.set_xlabel("step")
    axes.set_ylabel(name.replace("_", " "))
    figure.savefig(path, dpi=110, bbox_inches="tight")


def draw_loss(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """The course of a run as PNG: loss by step with a running mean, and what was measured beside.

    Args:
        rows: the numbers of every update: `step`, `loss`, `loss_<source>` where there are several
            sources, and `eval_loss` where it was measured.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], alpha=0.4, label="loss")
    names = dict.fromkeys(name for row in rows for name in row if name.startswith("loss_"))
    for name in names if len(names) > 1 else ():
        axes.plot(*_smooth(rows, name), linewidth=1, label=f"{name.removeprefix('loss_')} rows")
    axes.plot(*_smooth(rows, "loss"), label="running mean")
    measured = [row for row in rows if "eval_loss" in row]
    if measured:
        points = [row["step"] for row in measured], [row["eval_loss"] for row in measured]
        axes.plot(*points, marker="o", linestyle="--", label="held-out rows")
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.legend()
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _smooth(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and the running mean of a number; values that are not finite are passed over."""
    steps: list[int] = []
    means: list[float] = []
    for row in rows:
        value = row.get(name)
        if value is not None and math.isfinite(value):
            steps.append(row["step"])
            means.append(0.9 * means[-1] + 0.1 * value if means else value)
    return steps, means


@contextmanager
def readable_names(names: str) -> Iterator[None]:
    """Draw with a font that has the characters of `names`; warn where none has."""
    import matplotlib as mpl

    fonts: tuple[str, ...] = ()
    if any(character >= "\u2e80" for character in names) and not (fonts := _chinese()):
        _warn_of_boxes()
    with mpl.rc_context({"font.family": ["DejaVu Sans", *fonts]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _chinese() -> tuple[str, ...]:
    """Fonts with Chinese characters; matplotlib's own list may be older than what is installed."""
    return _known() or _searched()


def _known() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    names = {font.name for font in fontManager.ttflist}
    return tuple(font for font in CHINESE_FONTS if font in names)


@cache
def _searched() -> tuple[str, ...]:
    """Look through the machine's font files, once."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    for file in findSystemFonts():
        if Path(file).name.lower().startswith(CHINESE_FILES):
            fontManager.addfont(file)
    return _known()


@cache
def _warn_of_boxes() -> None:
    """Once a process, however many pictures there are."""
    logger.warning("Some names are drawn as boxes: install a font such as fonts-noto-cjk.")
