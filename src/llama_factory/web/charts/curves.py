"""Series as lines with intervals: numbers in, points of SVG out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

WIDTH, HEIGHT = 640, 200
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 8, 22
NUM_TICKS = 5
"""At most."""
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One value of a series.

    Attributes:
        x: place; the time, the number of an update or of a version.
        y: value.
        low: lower end of its interval; None for none.
        high: upper end.
        text: shown where one points at it.
        is_alert: whether it is marked.
    """

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    is_alert: bool = False


@dataclass(frozen=True)
class Curve:
    """A line as it is drawn.

    Attributes:
        name: of the series.
        path: of the line.
        band: of the intervals; empty without any.
        dots: place, text and mark of each value.
        last: the newest value.
    """

    name: str
    path: str
    band: str
    dots: tuple[tuple[float, float, str, bool], ...]
    last: float


@dataclass(frozen=True)
class Plot:
    """A picture of series.

    Attributes:
        curves: its lines.
        ticks: values on the left with their height.
        labels: texts below with their place.
        limit: height of a line that marks a limit; None for none.
    """

    curves: tuple[Curve, ...]
    ticks: tuple[tuple[float, str], ...]
    labels: tuple[tuple[float, str], ...]
    limit: float | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    bottom: int = HEIGHT - BOTTOM


def plot(
    series: Mapping[str, Sequence[Sample]],
    labels: Mapping[float, str],
    *,
    limit: float | None = None,
    between: tuple[float, float] | None = None,
) -> Plot | None:
    """Place series in one picture; None where no series has a value.

    Args:
        series: by name.
        labels: texts below, by place.
        limit: a value that is marked.
        between: lowest and highest value of the picture; None: as the values need.
    """
    known = {name: [s for s in listed if math.isfinite(s.y)] for name, listed in series.items()}
    known = {name: listed for name, listed in known.items() if listed}
    if not known:
        return None
    frame = _frame([each for listed in known.values() for each in listed], labels, limit, between)
    return Plot(
        tuple(_curve(name, listed, frame) for name, listed in known.items()),
        tuple((frame.y(each), f"{each:.6g}") for each in _ticks(frame.low, frame.high)),
        tuple((frame.x(x), text) for x, text in labels.items()),
        None if limit is None else frame.y(limit),
    )


@dataclass(frozen=True)
class _Frame:
    """What a picture shows: from which place to which, and from which value to which."""

    start: float
    end: float
    low: float
    high: float

    def x(self, place: float) -> float:
        part = (place - self.start) / (self.end - self.start) if self.end > self.start else 0.5
        return round(LEFT + 8 + part * (WIDTH - LEFT - RIGHT - 16), 1)

    def y(self, value: float) -> float:
        part = (min(self.high, max(self.low, value)) - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM), 1)


def _frame(
    samples: Sequence[Sample],
    labels: Mapping[float, str],
    limit: float | None,
    between: tuple[float, float] | None,
) -> _Frame:
    places = [*(each.x for each in samples), *labels]
    low, high = between or _range(samples, limit)
    return _Frame(min(places), max(places), low, high)


def _curve(name: str, samples: Sequence[Sample], frame: _Frame) -> Curve:
    ends = [
        (frame.x(each.x), frame.y(each.low), frame.y(each.high))
        for each in samples
        if each.low is not None and each.high is not None
    ]
    dots = tuple((frame.x(each.x), frame.y(each.y), each.text, each.is_alert) for each in samples)
    line = "M" + "L".join(f"{x} {y}" for x, y, _, _ in dots)
    return Curve(name, line, _band(ends), dots, samples[-1].y)


def thin(values: Sequence[T], most: int = 200) -> list[T]:
    """Evenly chosen values of a long series, the first and the last one among them."""
    if len(values) <= most:
        return list(values)
    step = (len(values) - 1) / (most - 1)
    return [values[round(n * step)] for n in range(most)]


def _range(samples: Sequence[Sample], limit: float | None) -> tuple[float, float]:
    values = [v for s in samples for v in (s.y, s.low, s.high) if v is not None]
    values += [] if limit is None else [limit]
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (0.0 if 0 <= low < (high - low) else low - room), high + room


def _ticks(low: float, high: float) -> list[float]:
    """Round values between two others, evenly apart."""
    least = (high - low) / NUM_TICKS
    size = 10.0 ** math.floor(math.log10(least))
    step = next(each * size for each in (1, 2, 5, 10) if each * size >= least * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _band(ends: Sequence[tuple[float, float, float]]) -> str:
    """The area between lower and upper ends, as a closed path."""
    if not ends:
        return ""
    if len(ends) == 1:
        ((x, low, high),) = ends
        return f"M{x - 3} {low}H{x + 3}V{high}H{x - 3}Z"
    there = [f"{x} {low}" for x, low, _ in ends]
    back = [f"{x} {high}" for x, _, high in reversed(ends)]
    return "M" + "L".join([*there, *back]) + "Z"
