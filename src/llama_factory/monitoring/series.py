"""The series of a workspace: one JSON line a value in `monitor.jsonl`, only ever added to.

The order of the lines is the order of the values: a clock that jumps changes nothing.
"""

import json
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llama_factory.core import files
from llama_factory.core.records import append_records
from llama_factory.core.sentences import keep_kinds, restore_kinds
from llama_factory.versions.workspace import Workspace

LOCK_SECONDS = 10.0
KEPT = 200
"""Values of each series that are read: enough for a picture and for thresholds."""
TAIL_BYTES = 1 << 24
"""How much of the end of a long file is read: some 60,000 values."""


@dataclass(frozen=True)
class Point:
    """One value of one series.

    Attributes:
        at: in UTC, ISO 8601.
        name: such as `drift.language`.
        value: the number; None where it could not be measured.
        alert: whether a person should look.
        words: what it means, with the numbers behind it.
        limit: above which it is an alert; None where another test decides.
        version: that it is about; empty for none.
        rows: behind the value.
        more: further numbers.
    """

    at: str
    name: str
    value: float | None
    alert: bool = False
    words: str = ""
    limit: float | None = None
    version: str = ""
    rows: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line; what is not set is left out, NaN becomes null."""
        known = vars(self) | {"value": _finite(self.value), "limit": _finite(self.limit)}
        always = ("at", "name", "value", "alert", "words")
        kept = {name: known[name] for name in known if name in always or known[name]}
        return keep_kinds(kept)

    @staticmethod
    def from_json(line: Mapping[str, Any]) -> "Point":
        """The inverse of `to_json`; fields of later programs are left out.

        Raises:
            KeyError, TypeError, ValueError: it is no point.
        """
        values = restore_kinds(line)
        known = {name: values[name] for name in Point.__dataclass_fields__ if name in values}
        point = Point(**known)
        if not (isinstance(point.name, str) and isinstance(point.at, str)):
            raise ValueError("name and time are texts")
        if not isinstance(point.value, int | float | None) or isinstance(point.value, bool):
            raise TypeError("a value is a number")
        return point


def append(workspace: Workspace, points: Sequence[Point]) -> None:
    """Add values, all of them or none; several processes may do so.

    Raises:
        VersionError: the disk is full, or another process holds the file for too long.
    """
    if not points:
        return
    lock = workspace.folder / ".monitor.lock"
    with files.locked(lock, what="adding to the monitor", seconds=LOCK_SECONDS):
        append_records(workspace.monitor, [point.to_json() for point in points])


def read(workspace: Workspace, *, most: int = KEPT) -> dict[str, list[Point]]:
    """The newest values of every series, oldest first; damaged lines are left out.

    Of a file above `TAIL_BYTES` only the end is read.
    """
    series: defaultdict[str, deque[Point]] = defaultdict(lambda: deque(maxlen=most))
    lines = files.last_lines(workspace.monitor, TAIL_BYTES) if workspace.monitor.exists() else ()
    for line in lines:
        point = _parsed(line)
        if point is not None:
            series[point.name].append(point)
    return {name: list(points) for name, points in series.items()}


def latest(workspace: Workspace) -> dict[str, Point]:
    """The newest value of every series, by name."""
    return {name: points[-1] for name, points in read(workspace, most=1).items()}


def values(points: Iterable[Point]) -> list[float]:
    """The numbers of a series."""
    return [point.value for point in points if point.value is not None]


def _parsed(line: bytes) -> Point | None:
    try:
        return Point.from_json(json.loads(line))
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
