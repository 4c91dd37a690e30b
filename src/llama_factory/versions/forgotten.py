"""Rows that people marked to be forgotten: one file that only grows, `forgotten.jsonl`.

What was taught stays in the weights of the versions that were taught it. A mark keeps the row out
of all that is taught from then on: new files, what people accepted, and what strategies replay.
"""

import contextlib
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.records import append_records, read_records
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.core.types import Memory
from llama_factory.versions.workspace import Workspace

REASON_LENGTH = kind(
    "problem.reason_length",
    "a reason of {count} characters: say in 1 to {most} why the row is to be forgotten.",
)
NOT_MARKED = kind("problem.not_marked", "no row with the key '{key}' is marked to be forgotten.")

FILE = "forgotten.jsonl"
LONGEST_REASON = 1000
"""Characters."""


@dataclass(frozen=True)
class TaughtPlace:
    """A version that was taught a row, and from where: its file and line."""

    version: str
    file: str
    line: int


@dataclass(frozen=True)
class ForgottenRow:
    """A mark, or that one was taken back.

    Attributes:
        key: of the row (`Example.key`).
        when: UTC, ISO 8601.
        who: marked it.
        why: in their words.
        places: the versions that had been taught it, oldest first.
        newest: the newest version then.
        is_back: whether the mark was taken back.
    """

    key: str
    when: str
    who: str
    why: str
    places: tuple[TaughtPlace, ...] = ()
    newest: str = ""
    is_back: bool = False

    @property
    def place(self) -> TaughtPlace:
        """Where it was taught last."""
        return self.places[-1] if self.places else TaughtPlace("", "", 0)

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "ForgottenRow":
        """The inverse of `asdict`."""
        places = tuple(TaughtPlace(**each) for each in values.get("places", ()))
        return ForgottenRow(**{**values, "places": places})


def read_forgotten(workspace: Workspace) -> dict[str, ForgottenRow]:
    """The marks that hold, by the key of their row; a line that a crash cut short is left out."""
    marks: dict[str, ForgottenRow] = {}
    for mark in read_records(workspace.folder / FILE, ForgottenRow.from_json):
        marks.pop(mark.key, None)
        if not mark.is_back:
            marks[mark.key] = mark
    return marks


def mark_forgotten(workspace: Workspace, marks: Iterable[ForgottenRow]) -> list[ForgottenRow]:
    """Write marks down; rows that are marked already stay as they are.

    Returns:
        Those that are new.

    Raises:
        DataError: a reason is missing or too long.
    """
    listed = list(marks)
    for mark in listed:
        if not mark.why.strip() or len(mark.why) > LONGEST_REASON:
            raise DataError(REASON_LENGTH(count=len(mark.why), most=LONGEST_REASON))
    with _writing(workspace):
        known = read_forgotten(workspace)
        new = [mark for mark in listed if mark.key not in known]
        append_records(workspace.folder / FILE, map(asdict, new))
    return new


def take_back(workspace: Workspace, key: str, who: str) -> ForgottenRow:
    """Let a row be taught again.

    Raises:
        DataError: it is not marked.
    """
    with _writing(workspace):
        known = read_forgotten(workspace).get(key)
        if known is None:
            raise DataError(NOT_MARKED(key=key[:40]))
        mark = replace(known, who=who, when=now(), is_back=True)
        append_records(workspace.folder / FILE, [asdict(mark)])
    return mark


def without_rows(memory: Memory, keys: Container[str]) -> Memory:
    """What strategies keep without some rows."""
    rows = {
        name: tuple(row for row in kept if row.key not in keys)
        for name, kept in memory.rows.items()
    }
    return replace(memory, rows=rows)


def _writing(workspace: Workspace) -> contextlib.AbstractContextManager[None]:
    lock = (workspace.folder / FILE).with_suffix(".lock")
    return files.locked(lock, what="marking rows to be forgotten", seconds=10)
