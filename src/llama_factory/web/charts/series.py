"""The series of the monitor as small pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llama_factory.monitoring.series import Point
from llama_factory.web.charts.curves import Plot, Sample, plot

MOST_POINTS = 100
MOST_SERIES = 40
"""Those with alerts come first."""


@dataclass(frozen=True)
class DrawnSeries:
    """One series.

    Attributes:
        name: of it.
        plot: its picture; None where nothing could be measured.
        newest: its newest value, with words.
    """

    name: str
    plot: Plot | None
    newest: Point


def draw_series(history: Mapping[str, Sequence[Point]]) -> list[DrawnSeries]:
    """Pictures, those with alerts first."""
    names = sorted(history, key=lambda name: (not history[name][-1].alert, name))[:MOST_SERIES]
    return [DrawnSeries(name, _plot(name, history[name]), history[name][-1]) for name in names]


def _plot(name: str, points: Sequence[Point]) -> Plot | None:
    shown = list(points)[-MOST_POINTS:]
    samples = [
        Sample(float(n), each.value, text=f"{each.at}: {each.value:.4g}", is_alert=each.alert)
        for n, each in enumerate(shown)
        if each.value is not None
    ]
    labels = {0.0: shown[0].at[:10], float(len(shown) - 1): shown[-1].at[:10]}
    if len(shown) == 1:
        labels = {0.0: shown[0].at[:10]}
    return plot({name: samples}, labels, limit=shown[-1].limit)
