"""What rows are made of, as bars: by task, file, language, length, and what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass

from llama_factory.data.stats import OTHERS, bin_edge
from llama_factory.jobs.row_statistics import RowStatistics
from llama_factory.text.languages import UNKNOWN

MOST_BARS = 12
WIDTH = 160
PLOT_WIDTH, PLOT_HEIGHT = 640, 180
LEFT, TOP, BOTTOM = 46, 8, 22
BINS_TOGETHER = 4
"""Counted bins in a drawn one."""
MOST_LABELS = 8


@dataclass(frozen=True)
class CountBar:
    """One count.

    Attributes:
        name: of what is counted; empty for all others together.
        count: of rows.
        fraction: of all rows.
        width: in pixels.
    """

    name: str
    count: int
    fraction: float
    width: float


@dataclass(frozen=True)
class LengthBar:
    """Rows of a range of lengths: from `low` to `high`, drawn at `x`, `y` with `height`."""

    low: float
    high: float
    count: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class LengthPlot:
    """How long rows are.

    Attributes:
        bars: from short to long.
        labels: places with the length there.
        ticks: heights with the number of rows there.
        median: half of the rows are no longer.
        p95: 95 % of them are no longer.
    """

    bars: tuple[LengthBar, ...]
    labels: tuple[tuple[float, str], ...]
    ticks: tuple[tuple[float, str], ...]
    median: float
    p95: float
    width: int = PLOT_WIDTH
    height: int = PLOT_HEIGHT
    left: int = LEFT
    bottom: int = PLOT_HEIGHT - BOTTOM


@dataclass(frozen=True)
class RowPictures:
    """The pictures of some rows.

    Attributes:
        statistics: that they show.
        charts: bars by what they count.
        lengths: of the rows; None where there are none.
    """

    statistics: RowStatistics
    charts: Mapping[str, tuple[CountBar, ...]]
    lengths: LengthPlot | None


def pictures_of(rows: RowStatistics) -> RowPictures:
    """Draw statistics; what has no count has no picture."""
    languages = {("" if n == UNKNOWN else n): c for n, c in rows.languages.items()}
    left_out = dict(rows.left_out) | ({"refused": rows.num_refused} if rows.num_refused else {})
    counted = {
        "groups": rows.groups,
        "languages": languages,
        "sources": rows.sources,
        "left_out": left_out,
    }
    charts = {name: bars_of(counts) for name, counts in counted.items() if sum(counts.values())}
    return RowPictures(rows, charts, lengths_of(rows.lengths))


def bars_of(counts: Mapping[str, int]) -> tuple[CountBar, ...]:
    """The largest counts as bars; the rest is one bar without a name."""
    ranked = sorted(counts.items(), key=lambda each: (each[0] in (OTHERS, ""), -each[1]))
    shown, rest = ranked[:MOST_BARS], ranked[MOST_BARS:]
    others = sum(count for _, count in rest)
    named = [(("" if name == OTHERS else name), count) for name, count in shown if count]
    listed = [*named, *([("", others)] if others else [])]
    total, longest = sum(counts.values()), max((c for _, c in listed), default=1)
    return tuple(
        CountBar(name, count, count / total, max(1.0, round(WIDTH * count / longest, 1)))
        for name, count in listed
    )


def lengths_of(counts: Mapping[int, int]) -> LengthPlot | None:
    """Lengths on a logarithmic scale.

    Args:
        counts: by place in `data.stats.Histogram`.
    """
    joined: dict[int, int] = {}
    for place, count in counts.items():
        group = max(0, place - 1) // BINS_TOGETHER
        joined[group] = joined.get(group, 0) + count
    if not joined:
        return None
    first, last = min(joined), max(joined)
    drawn, most = last - first + 1, max(joined.values())
    bottom, room = PLOT_HEIGHT - BOTTOM, PLOT_HEIGHT - BOTTOM - TOP
    step = (PLOT_WIDTH - LEFT - 10) / max(drawn, 6)
    bars = []
    for number, group in enumerate(range(first, last + 1)):
        height = round(room * joined.get(group, 0) / most, 1)
        edges = _edge(group), _edge(group + 1)
        x = round(LEFT + number * step, 1)
        shape = (x, round(bottom - height, 1), round(step - 1, 1), height)
        bars.append(LengthBar(*edges, joined.get(group, 0), *shape))
    every = max(1, drawn // MOST_LABELS)
    labels = tuple((each.x, f"{each.low:.0f}") for each in bars[::every])
    counts_shown = sorted({0, most // 2, most})
    ticks = tuple((round(bottom - room * n / most, 1), f"{n}") for n in counts_shown)
    return LengthPlot(tuple(bars), labels, ticks, _quantile(counts, 0.5), _quantile(counts, 0.95))


def _edge(group: int) -> float:
    return bin_edge(group * BINS_TOGETHER + 1)


def _quantile(counts: Mapping[int, int], fraction: float) -> float:
    """The middle of the bin in which a fraction of the rows is reached."""
    wanted, reached = fraction * sum(counts.values()), 0
    for place in sorted(counts):
        reached += counts[place]
        if reached >= wanted:
            return round(bin_edge(place) * 1.03)
    return 0.0
