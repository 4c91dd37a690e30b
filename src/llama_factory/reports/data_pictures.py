"""A picture of what a set of rows is made of."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from llama_factory.data.stats import OTHERS, DataStats, Histogram, bin_edge
from llama_factory.reports.pictures import readable_names
from llama_factory.text.languages import UNKNOWN

FEWEST_BARS, MOST_BARS = 6, 20
MOST_REASONS = 6
MOST_CHARACTERS = 32
"""Of a name beside a bar."""
BLUE, ORANGE, GREEN, RED, GREY = "#4477aa", "#ee7733", "#228833", "#cc3311", "#999999"

Bars = list[tuple[str, int, str]]
"""Name, count and colour of each bar, from top to bottom."""


def draw_stats(stats: DataStats, path: Path) -> None:
    """Lengths, groups, languages, and duplicate and refused rows as one PNG."""
    names = "".join([*stats.groups, *stats.refused])
    with readable_names(names):
        _draw(stats, path)


def _draw(stats: DataStats, path: Path) -> None:
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display needed
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    languages = {"unknown" if n == UNKNOWN else n: count for n, count in stats.languages.items()}
    groups, spoken = _top(stats.groups, "groups"), _top(languages, "languages")
    quality = _quality(stats)
    rows = max(FEWEST_BARS, len(groups)), max(FEWEST_BARS, len(spoken), len(quality))
    size = (13, 2.6 + 0.27 * sum(rows))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.15))
    grid = figure.subplots(2, 2, height_ratios=rows)
    _draw_lengths(grid[0, 0], {"prompts": stats.prompts, "answers and texts": stats.answers})
    _draw_bars(grid[0, 1], groups, f"Groups ({len(stats.groups):,})", rows=rows[0])
    _draw_bars(grid[1, 0], spoken, "Languages of the answers", rows=rows[1])
    _draw_bars(grid[1, 1], quality, "Duplicate and refused rows", rows=rows[1])
    figure.suptitle(f"{stats.num_rows:,} rows", fontsize=14)
    figure.savefig(path, dpi=110)


def _draw_lengths(axes: Any, lengths: Mapping[str, Histogram]) -> None:
    for (name, histogram), color in zip(lengths.items(), (BLUE, ORANGE), strict=True):
        if not histogram.num_values:
            continue
        edges, counts = _steps(histogram)
        label = f"{name}: median {histogram.percentile(50):,}, 95 % {histogram.percentile(95):,}"
        axes.stairs(counts, edges, fill=True, alpha=0.35, color=color)
        axes.stairs(counts, edges, color=color, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda length, _: f"{length:,.0f}")
    axes.set_xlabel("characters")
    axes.set_ylabel("rows")
    axes.set_title("Lengths", fontsize=11)
    if axes.get_legend_handles_labels()[0]:
        axes.margins(y=0.45)
        axes.legend(loc="upper left", fontsize=9, frameon=False)
    _bare(axes)


def _steps(histogram: Histogram) -> tuple[list[float], list[int]]:
    """Edges and counts of the drawn bins, each of four counted ones; zeros count as ones."""
    counts = list(histogram.counts[1:])
    counts[0] += histogram.counts[0]
    sums = [sum(counts[place : place + 4]) for place in range(0, len(counts), 4)]
    used = [place for place, number in enumerate(sums) if number]
    first, last = used[0], used[-1] + 1
    edges = [bin_edge(4 * place + 1) for place in range(first, last + 1)]
    return edges, sums[first:last]


def _top(counts: Mapping[str, int], what: str) -> Bars:
    """The largest counts, the rest in one bar."""
    ranked = sorted(counts.items(), key=lambda item: (item[0] == OTHERS, -item[1]))
    bars = [(_short(name), count, BLUE) for name, count in ranked[:MOST_BARS]]
    rest = ranked[MOST_BARS:]
    if rest:
        bars.append((f"{len(rest):,} other {what}", sum(count for _, count in rest), GREY))
    return bars


def _quality(stats: DataStats) -> Bars:
    bars: Bars = [
        ("good, once", stats.num_rows - stats.num_duplicates, GREEN),
        ("exact duplicates", stats.num_duplicates, ORANGE),
    ]
    reasons = stats.refused.most_common()
    bars += [("\n".join(_wrapped(why)), count, RED) for why, count in reasons[:MOST_REASONS]]
    rest = sum(count for _, count in reasons[MOST_REASONS:])
    return [*bars, ("refused for other reasons", rest, RED)] if rest else bars


def _draw_bars(axes: Any, bars: Bars, title: str, *, rows: int) -> None:
    """Bars with their counts, in a panel that has room for `rows` of them."""
    counts = [count for _, count, _ in bars]
    named = [count for _, count, color in bars if color != GREY]
    longest = max([*named, 1])
    # the bar of all others is cut where it would make the named ones unreadably short
    drawn = axes.barh(
        range(len(bars)),
        [min(count, 1.1 * longest) for count in counts],
        color=[color for *_, color in bars],
        hatch=["//" if count > 1.1 * longest else "" for count in counts],
        edgecolor="white",
        linewidth=0,
        height=0.7,
    )
    total = max(sum(counts), 1)
    axes.bar_label(drawn, [f" {n:,}  ({_percent(n / total)})" for n in counts], fontsize=8)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=9)
    axes.set_xlim(0, 1.35 * longest)
    axes.set_ylim(rows - 0.4, -0.6)
    axes.set_xticks([])
    axes.set_title(title, fontsize=11)
    _bare(axes)


def _percent(fraction: float) -> str:
    return "< 0.1 %" if 0 < fraction < 0.001 else f"{100 * fraction:.1f} %"


def _bare(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    """A name on one line, cut in the middle: sets often share their beginning."""
    name = " ".join(name.split()) or "(empty)"
    if len(name) <= _fitting(name):
        return name
    half = _fitting(name) // 2
    return f"{name[:half]}…{name[1 - half :]}"


def _wrapped(reason: str) -> list[str]:
    """The beginning of a reason on at most two lines."""
    lines = wrap(reason, _fitting(reason)) or ["(no reason)"]
    return lines if len(lines) < 3 else [lines[0], f"{lines[1]}…"]


def _fitting(text: str) -> int:
    """Characters that have room beside a bar; a Chinese one is as wide as two others."""
    wide = sum(character >= "\u2e80" for character in text)
    return MOST_CHARACTERS // 2 if wide > len(text) // 2 else MOST_CHARACTERS
