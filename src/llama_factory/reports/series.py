"""A picture of the series of a workspace: one small plot a series, alerts marked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.core.errors import ConfigError
from llama_factory.monitoring.series import Point
from llama_factory.reports.pictures import readable_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png")
MOST_SERIES = 24
"""Plots in one picture; those with alerts come first."""


def draw_series(history: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Draw the series into an SVG or PNG file.

    Raises:
        ConfigError: the name ends in something else.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"--picture {path}: the name must end in {' or '.join(FORMATS)}.")
    with readable_names("".join(history)):
        series_figure(history).savefig(path, format=path.suffix[1:], dpi=110, bbox_inches="tight")


def series_figure(history: Mapping[str, Sequence[Point]]) -> "Figure":
    """The picture before it is written."""
    from matplotlib.figure import Figure

    names = sorted(history, key=lambda name: (not history[name][-1].alert, name))[:MOST_SERIES]
    figure = Figure(figsize=(7, 1.5 * max(1, len(names))))
    if not names:
        figure.text(0.5, 0.5, "nothing was observed yet", ha="center")
        return figure
    plots = figure.subplots(len(names), squeeze=False)[:, 0]
    for name, axes in zip(names, plots, strict=True):
        points = [(n, p) for n, p in enumerate(history[name]) if p.value is not None]
        axes.plot([n for n, _ in points], [p.value for _, p in points], marker=".", color="#446")
        alerts = [(n, p.value) for n, p in points if p.alert]
        axes.plot(*zip(*alerts, strict=True), "o", color="#c33") if alerts else None
        if points and (limit := points[-1][1].limit) is not None:
            axes.axhline(limit, color="#999", linestyle=":", linewidth=1)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_xticks([])
        axes.tick_params(labelsize=8)
    plots[-1].set_xlabel("observations, oldest first; dotted: the limit; red: an alert")
    figure.tight_layout()
    return figure
