"""Pictures of the continual benchmark: heat map and curves of every run, courses of methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from continual_methods import hash_of

from llama_factory.evaluation.drift import Drift
from llama_factory.evaluation.forgetting import ForgettingMatrix
from llama_factory.evaluation.statistics import Estimate, mean
from llama_factory.reports.pictures import draw_curves, draw_matrix


@dataclass(frozen=True)
class Course:
    """One run over several rounds.

    Attributes:
        matrix: under the main metric.
        result: what the run's file holds.
    """

    matrix: ForgettingMatrix
    result: Mapping[str, Any]


def draw(
    courses: Mapping[str, Sequence[Course]], levels: Mapping[str, float], folder: Path
) -> None:
    """Everything that can be drawn of a table.

    Args:
        courses: the runs of each method.
        levels: scores without a course, as of joint training.
        folder: of the pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for label, runs in courses.items():
        for run in runs:
            number, seed = run.result["order"], run.result["seed"]
            name = f"{label.split()[0]}-{number}-s{seed}-{hash_of(label)}"
            draw_matrix(run.matrix, folder / f"{name}-matrix.png")
            draw_curves(run.matrix, _drift(run), folder / f"{name}-curves.png", _intervals(run))
    _draw_courses(courses, levels, folder / "methods.png")


def _drift(run: Course) -> Drift:
    guards = [each["guard"]["answers"] for each in run.result["rounds"]]
    base = guards[-1]["base_perplexity"]
    ratios = tuple(each["perplexity"] / base for each in guards)
    return Drift(run.matrix.versions, ratios, tuple(each.get("divergence") for each in guards))


def _intervals(run: Course) -> dict[tuple[str, str], Estimate]:
    rounds = zip(run.matrix.versions, run.result["rounds"], strict=True)
    return {
        (version, task): mean(scores[run.matrix.metric])
        for version, each in rounds
        for task, scores in each["scores"].items()
    }


def _draw_courses(
    courses: Mapping[str, Sequence[Course]], levels: Mapping[str, float], target: Path
) -> None:
    """The mean score of all tasks learned so far, round by round, of every method."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.set_prop_cycle(color=mpl.colormaps["tab20"].colors)
    for label, runs in courses.items():
        means = np.mean([_so_far(run.matrix) for run in runs], axis=0)
        axes.plot(range(1, len(means) + 1), means, marker="o", label=label)
    for label, level in levels.items():
        axes.axhline(level, linestyle=":", color="black", label=label)
    axes.set_xlabel("rounds")
    axes.set_ylabel("mean score of the tasks learned so far")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=9)
    figure.savefig(target, format="png", dpi=120, bbox_inches="tight")


def _so_far(matrix: ForgettingMatrix) -> list[float]:
    rows = (matrix.row(version) for version in matrix.versions)
    return [float(np.mean([score for score in row if score is not None])) for row in rows]
