"""What each version can do of each task: one cell a score, as a report has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_factory.core.types import BASE_VERSION

MOST = 20
"""Newest versions and tasks that are drawn; the report has all of them."""
STEPS = 10
"""Shades."""


@dataclass(frozen=True)
class Cell:
    """One score.

    Attributes:
        value: from 0 to 1; None where nothing was measured.
        is_taught: whether the version had been taught the task.
        change: since the task's own round; None in that round and before it.
    """

    value: float | None
    is_taught: bool
    change: float | None = None

    @property
    def shade(self) -> int:
        """From 0 to `STEPS`."""
        return 0 if self.value is None else round(max(0.0, min(1.0, self.value)) * STEPS)


@dataclass(frozen=True)
class HeatMap:
    """The picture.

    Attributes:
        tasks: names of the columns, in the order they were learned.
        rows: the name of a version and its cells.
        left_out: how many older versions and tasks are not drawn.
        summary: the five numbers by name.
    """

    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    left_out: tuple[int, int]
    summary: Mapping[str, float | None]


def heat_map_of(report: Mapping[str, Any], metric: str) -> HeatMap | None:
    """The matrix of a report under a metric; None where it has none."""
    saved = report.get("forgetting", {}).get(metric)
    if not saved or not saved["tasks"]:
        return None
    tasks, versions = saved["tasks"], saved["versions"]
    columns = [_column(saved, number) for number in range(len(tasks))]
    lines = [(version, [c[n + 1] for c in columns]) for n, version in enumerate(versions)]
    if any(each is not None for each in saved["base"]):
        lines.insert(0, (BASE_VERSION, [c[0] for c in columns]))
    rows = tuple((name, tuple(cells[-MOST:])) for name, cells in lines[-MOST:])
    names = ("average", "learned", "backward_transfer", "forgetting", "forward_transfer")
    return HeatMap(
        tuple(tasks[-MOST:]),
        rows,
        (max(0, len(lines) - MOST), max(0, len(tasks) - MOST)),
        {name: saved.get(name) for name in names},
    )


def _column(saved: Mapping[str, Any], number: int) -> list[Cell]:
    """The scores on one task: of the base model, then of each version."""
    scores = [line[number] for line in saved["matrix"]]
    own = next((n for n, score in enumerate(scores) if score is not None), len(scores))
    cells = [Cell(saved["base"][number], is_taught=False)]
    for n, score in enumerate(scores):
        if n < own:
            value = saved["untaught"][number] if n == own - 1 else None
            cells.append(Cell(value, is_taught=False))
        else:
            change = None if n == own or score is None else score - scores[own]
            cells.append(Cell(score, is_taught=True, change=change))
    return cells
