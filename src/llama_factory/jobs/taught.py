"""Which version was taught a text, and from where: a search over the rows that versions keep."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.versions.version import number_of
from llama_factory.versions.workspace import Workspace

SIDES = ("train", "held_out")
MOST_FOUND = 25
MOST_BYTES = 50_000_000
"""Read for one page of results."""
_VERSION = re.compile(r"v\d{4,9}")
_PLACE = re.compile(r"(v\d{4,9}):(train|held_out):(\d{1,15})")


@dataclass(frozen=True)
class TaughtRow:
    """A row that holds the text.

    Attributes:
        version: whose round read it.
        is_test: it was held out to test, and never taught.
        row: itself, with its file and line.
    """

    version: str
    is_test: bool
    row: Example


@dataclass(frozen=True)
class TaughtRows:
    """A page of results.

    Attributes:
        rows: the newest version's first.
        next: where to go on; empty where all was searched.
        damaged: files with lines that seem to hold the text and cannot be read.
    """

    rows: tuple[TaughtRow, ...]
    next: str = ""
    damaged: tuple[str, ...] = ()


def search_taught(workspace: Workspace, text: str, start: str = "") -> TaughtRows:
    """Rows with a text in any of their turns, capitals or not.

    Args:
        workspace: whose versions.
        text: to look for.
        start: `next` of the page before; empty for the first one.

    Raises:
        DataError: the text is empty, or `start` is none.
    """
    wanted = text.strip().casefold()
    if not wanted:
        raise DataError("the text to look for is empty. Write a word of the row.")
    found: list[TaughtRow] = []
    damaged: dict[str, None] = {}
    left = MOST_BYTES
    for place, offset in _places(workspace, start):
        version, side = place.parent.parent.name, place.stem
        with place.open("rb") as file:
            file.seek(offset)
            while line := file.readline():
                if len(found) == MOST_FOUND or left <= 0:
                    after = f"{version}:{side}:{file.tell() - len(line)}"
                    return TaughtRows(tuple(found), after, tuple(damaged))
                left -= len(line)
                try:
                    row = _row_with(line, wanted)
                except (ValueError, KeyError, TypeError, AttributeError):
                    damaged[f"{version}/data/{place.name}"] = None
                    continue
                if row is not None:
                    found.append(TaughtRow(version, side == "held_out", row))
    return TaughtRows(tuple(found), "", tuple(damaged))


def _places(workspace: Workspace, start: str) -> Iterator[tuple[Path, int]]:
    """Files of rows, the newest version's first, each with the byte to begin at."""
    names = [each.name for each in workspace.versions.iterdir() if _VERSION.fullmatch(each.name)]
    sides = [(name, side) for name in sorted(names, key=number_of, reverse=True) for side in SIDES]
    offset = 0
    if start:
        match = _PLACE.fullmatch(start)
        if match is None:
            raise DataError(f"'{start[:80]}' is no place to go on from. Search again.")
        name, side, offset = match[1], match[2], int(match[3])
        sides = [each for each in sides if _is_from(each, (name, side))]
        offset = offset if sides[:1] == [(name, side)] else 0
    for name, side in sides:
        path = workspace.versions / name / "data" / f"{side}.jsonl"
        if path.is_file():
            yield path, offset
        offset = 0


def _is_from(place: tuple[str, str], start: tuple[str, str]) -> bool:
    """Whether a version's side comes at or after another one in the search."""
    if place[0] == start[0]:
        return SIDES.index(place[1]) >= SIDES.index(start[1])
    return number_of(place[0]) < number_of(start[0])


def _row_with(line: bytes, wanted: str) -> Example | None:
    """The row of a line, if one of its turns holds the text; most lines are never parsed."""
    text = line.decode()
    is_escaped = "\\" in text or '"' in wanted
    if not is_escaped and wanted not in text.casefold():
        return None
    row = Example.from_json(json.loads(text))
    turns = [*row.messages, *([row.rejected] if row.rejected else [])]
    is_meant = any(wanted in turn.content.casefold() for turn in turns)
    return row if is_meant else None
