"""Who comes from whom: versions as points on lines, the newest at the top."""

from collections.abc import Sequence
from dataclasses import dataclass

from llama_factory.reports.listing import VersionRow

ROW = 34
COLUMN = 26
MARGIN = 16


@dataclass(frozen=True)
class Node:
    """A version in the picture.

    Attributes:
        row: that it stands for.
        x: pixels from the left.
        y: pixels from the top.
    """

    row: VersionRow
    x: int
    y: int

    @property
    def kind(self) -> str:
        """How it is drawn."""
        if self.row.problem:
            return "damaged"
        if "production" in self.row.aliases:
            return "production"
        if self.row.is_consolidated:
            return "consolidated"
        return self.row.gate or "base"


@dataclass(frozen=True)
class Lineage:
    """The picture.

    Attributes:
        nodes: the versions, the newest first.
        lines: from each version to its parent, as SVG paths; to the lower edge where that is not
            on the page.
        width: in pixels.
        height: in pixels.
    """

    nodes: tuple[Node, ...]
    lines: tuple[str, ...]
    width: int
    height: int


def lineage_of(rows: Sequence[VersionRow]) -> Lineage:
    """Place versions: a child goes on in its parent's column unless a sibling already does.

    Args:
        rows: oldest first.
    """
    height = MARGIN * 2 + ROW * max(0, len(rows) - 1)
    columns = _columns(rows)
    nodes = [
        Node(row, MARGIN + COLUMN * columns[row.id], height - MARGIN - ROW * number)
        for number, row in enumerate(rows)
    ]
    places = {node.row.id: node for node in nodes}
    lines = [
        _line(node, places.get(node.row.parent), height) for node in nodes if _has_parent(node)
    ]
    width = MARGIN * 2 + COLUMN * max(columns.values(), default=0)
    return Lineage(tuple(reversed(nodes)), tuple(lines), width, height)


def _columns(rows: Sequence[VersionRow]) -> dict[str, int]:
    """The last child of a version goes on in its column, the others each begin one."""
    heir = {row.parent: row.id for row in rows if row.parent != row.id}
    heir |= {row.parent: row.id for row in rows if row.gate != "refused" and row.parent != row.id}
    columns: dict[str, int] = {}
    busy: dict[int, str] = {}
    for row in rows:
        own = columns.get(row.parent)
        if own is None or heir[row.parent] != row.id:
            free = (each for each in range(len(rows) + 1) if not _is_busy(busy, each, heir))
            own = next(free)
        columns[row.id] = own
        busy[own] = row.id
    return columns


def _is_busy(busy: dict[int, str], column: int, heir: dict[str, str]) -> bool:
    """Whether the line in a column goes on from the version that it has reached."""
    return column in busy and busy[column] in heir


def _has_parent(node: Node) -> bool:
    return bool(node.row.parent) and node.row.parent != node.row.id


def _line(node: Node, parent: Node | None, height: int) -> str:
    if parent is None:
        return f"M{node.x} {node.y}V{height}"
    if parent.x == node.x:
        return f"M{node.x} {node.y}V{parent.y}"
    bend = parent.y - ROW // 2
    return f"M{node.x} {node.y}V{bend}C{node.x} {parent.y} {parent.x} {bend} {parent.x} {parent.y}"
