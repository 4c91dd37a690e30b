"""Rows to be forgotten: who was taught one, marking it, and what a retraining would take."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from llama_factory.core.durations import show_roughly
from llama_factory.core.errors import DataError, VersionError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.core.types import Example
from llama_factory.data.row_columns import hash_of
from llama_factory.data.seen import open_seen
from llama_factory.versions import forgotten, memory, releases, store
from llama_factory.versions.forgotten import ForgottenRow, TaughtPlace
from llama_factory.versions.journal import Journal, JournalEntry, What
from llama_factory.versions.version import MEMORY, ModelVersion, number_of
from llama_factory.versions.workspace import Workspace

NEVER_TAUGHT = kind(
    "problem.never_taught",
    "no version was taught a row with the key '{key}', as far as versions keep their "
    "rows. Search for its text first.",
)


@dataclass(frozen=True)
class Retraining:
    """What it would take that no released weight comes from a row: the rounds since are repeated.

    Attributes:
        places: all versions that were taught the row, oldest first.
        rounds: those of the released version's lineage from the first one on; none where it was
            never taught the row.
        begins_from: the version that the first of them would be taught anew from.
        num_rows: rows that these rounds taught.
        seconds: that their trainings took in all; tests come on top.
        is_replayed: whether the released version's memory still holds the row: the next round
            drops it.
    """

    places: tuple[TaughtPlace, ...]
    rounds: tuple[str, ...] = ()
    begins_from: str = ""
    num_rows: int = 0
    seconds: float = 0.0
    is_replayed: bool = False

    @property
    def duration(self) -> str:
        """How long these trainings took, roughly."""
        return show_roughly(timedelta(seconds=max(1, round(self.seconds))))

    @property
    def sentence(self) -> str:
        """The statement for people."""
        if not self.rounds:
            where = ", ".join(each.version for each in self.places) or "no version that is kept"
            return f"taught to {where}, none of which the released version comes from"
        again = f"{self.rounds[0]} was the first that was taught it"
        work = (
            f"a retraining would begin from {self.begins_from} and repeat {len(self.rounds)} "
            f"rounds ({self.num_rows:,} rows), which took {self.duration} to train the first time"
        )
        replay = "; the next round drops it from what is replayed" if self.is_replayed else ""
        return f"{again}; {work}{replay}"


@dataclass(frozen=True)
class MarkedRow:
    """A mark with what a retraining would take.

    Attributes:
        mark: itself.
        row: what is marked; None where no version keeps it any more.
        retraining: the statement.
    """

    mark: ForgottenRow
    row: Example | None
    retraining: Retraining

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        row = self.row.to_json() if self.row else None
        return asdict(self.mark) | {"row": row, "retraining": asdict(self.retraining)}


def forget_row(workspace: Workspace, key: str, who: str, why: str) -> MarkedRow:
    """Mark a row that was taught; the journal says so, without the row's text.

    Args:
        workspace: whose versions were taught it.
        key: of the row.
        who: marks it.
        why: in their words.

    Raises:
        DataError: no version was taught it as far as versions keep their rows, or there is no
            reason.
    """
    ids = store.ids(workspace)
    places = tuple(_places(workspace, key, ids))
    if not places:
        raise DataError(NEVER_TAUGHT(key=key[:40]))
    mark = ForgottenRow(key, now(), who, why.strip(), places, ids[-1])
    if forgotten.mark_forgotten(workspace, [mark]):
        _note(workspace, "row forgotten", mark)
    return describe_mark(forgotten.read_forgotten(workspace)[key], ReleasedLineage.of(workspace))


def remember_row(workspace: Workspace, key: str, who: str) -> ForgottenRow:
    """Take a mark back: the row may be taught again.

    Raises:
        DataError: it is not marked.
    """
    mark = forgotten.take_back(workspace, key, who)
    _note(workspace, "row remembered", mark)
    return mark


def list_marks(workspace: Workspace) -> list[MarkedRow]:
    """All marks, the newest first, each with what a retraining would take."""
    marks = list(forgotten.read_forgotten(workspace).values())
    released = ReleasedLineage.of(workspace) if marks else None
    return [describe_mark(each, released) for each in reversed(marks) if released]


@dataclass(frozen=True)
class ReleasedLineage:
    """What statements about marks rest on.

    Attributes:
        workspace: whose marks.
        ids: of all versions, oldest first.
        chain: the released version's lineage, oldest first.
        replayed: keys of the rows in the released version's memory.
    """

    workspace: Workspace
    ids: tuple[str, ...]
    chain: tuple[ModelVersion, ...]
    replayed: frozenset[str]

    @staticmethod
    def of(workspace: Workspace) -> "ReleasedLineage":
        """How a workspace stands."""
        production = store.get(workspace, releases.PRODUCTION, verify=False)
        rows = (row for _, row in memory.read_rows(production.folder / MEMORY))
        return ReleasedLineage(
            workspace,
            tuple(store.ids(workspace)),
            tuple(store.readable_lineage(production)[0]),
            frozenset(row.key for row in rows),
        )


def describe_mark(mark: ForgottenRow, released: ReleasedLineage) -> MarkedRow:
    """A mark with the statement: a round that was in progress then may have taught it once more."""
    after = [each for each in released.ids if number_of(each) > number_of(mark.newest)][:1]
    places = (*mark.places, *_places(released.workspace, mark.key, after))
    last = places[-1].version if places else ""
    found = _taught(released.workspace, mark.key, [last] if last in released.ids else [])
    row = next((row for _, row in found), None)
    return MarkedRow(mark, row, _retraining(mark.key, places, released))


def _retraining(key: str, places: tuple[TaughtPlace, ...], released: ReleasedLineage) -> Retraining:
    taught = {each.version for each in places}
    first = next((n for n, version in enumerate(released.chain) if version.id in taught), None)
    if first is None:
        return Retraining(places)
    again = released.chain[first:]
    return Retraining(
        places,
        tuple(version.id for version in again),
        again[0].parent,
        sum(version.num_rows for version in again),
        sum(map(_seconds, again)),
        key in released.replayed,
    )


def _seconds(version: ModelVersion) -> float:
    try:
        return float(version.report.get("training", {}).get("seconds", 0.0))
    except VersionError:
        return 0.0


def _places(workspace: Workspace, key: str, ids: Sequence[str]) -> Iterator[TaughtPlace]:
    for version, row in _taught(workspace, key, ids):
        yield TaughtPlace(version, row.file, row.line)


def _taught(workspace: Workspace, key: str, ids: Sequence[str]) -> Iterator[tuple[str, Example]]:
    """Those of some versions that were taught a row, each with it.

    The keys of all rows lie beside them as numbers: no file of rows is read through.
    """
    folders = {each: workspace.versions / each / "data" for each in ids} if _is_key(key) else {}
    for seen in open_seen(folders, workspace.cache / "data"):
        if not seen.taught.has_rows:
            continue
        places = np.flatnonzero(seen.taught.column("key") == np.uint64(hash_of(key)))
        for number in places.tolist():
            row = seen.taught.row(number)
            if row.key == key:
                yield seen.version, row


def _is_key(text: str) -> bool:
    return len(text) == 32 and all(each in "0123456789abcdef" for each in text)


def _note(workspace: Workspace, what: What, mark: ForgottenRow) -> None:
    place = mark.place
    data = {"key": mark.key, "name": mark.who, "text": f"{place.file}:{place.line}: {mark.why}"}
    Journal(workspace.journal).add(JournalEntry(what, "person", place.version, data))
