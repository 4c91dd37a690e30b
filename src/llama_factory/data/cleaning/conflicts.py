"""Rows that ask the same and answer differently: settled by a rule or a person, else held back.

A new answer to an old question corrects it: replay would else teach the old answer beside the new
one, and a gate that still asked for the old one would take learning the new one for forgetting.
"""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example
from llama_factory.data.cleaning import CLEANERS, SetStep
from llama_factory.data.conflict_rules import (
    Conflict,
    ConflictSettings,
    conflict_among,
    decide,
    same_question,
)
from llama_factory.data.matching import pairs_within
from llama_factory.data.row_columns import Array, question_hashes
from llama_factory.data.seen import Seen
from llama_factory.data.selection import Findings, History, Removal, Selection
from llama_factory.data.store import RowTable

WAITING = kind_of_sentence("data.waiting", "conflicting answers wait for review")
REJECTED = kind_of_sentence("data.rejected", "another answer was chosen in review")
RULED = kind_of_sentence("data.ruled", "another answer is right by rule {rule}")

if TYPE_CHECKING:
    from llama_factory.data.review.case_book import CaseBook

MAX_ROWS = 200
"""Rows of one question that are compared with each other; the others are left as they are."""


@CLEANERS.register("conflicts")
class Conflicts(ConflictSettings, SetStep):
    """Teaches one answer to a question. What no rule settles waits for `data review`.

    An answer of this round corrects that of an earlier one, which is not rehearsed any more, nor
    asked for where it was held out.
    """

    def find_corrections(self, table: RowTable, history: History) -> list[int]:
        """See `SetStep.find_corrections`."""
        rows = np.arange(len(table))
        return [
            row
            for version in history.seen
            for row, _ in self._contradictions(table, rows, version.tested, version.asked)
        ]

    def compare(self, rows: Selection, history: History) -> Findings:
        """See `SetStep.compare`."""
        rejected = _judged(rows, history.book, "rejected", REJECTED())
        rows = rows.without(rejected.rows)
        conflicts = list(self._conflicts(rows))
        settled = [self._losers(conflict, places, history.book) for conflict, places in conflicts]
        rows = rows.without(*(removal.rows for removal in settled))
        waiting = _judged(rows, history.book, "waiting", WAITING())
        corrected, retired = self._corrected(rows.without(waiting.rows), history.seen)
        removals = (rejected, *settled, waiting)
        return Findings(removals, tuple(found for found, _ in conflicts), corrected, retired)

    def _conflicts(self, rows: Selection) -> Iterator[tuple[Conflict, dict[str, int]]]:
        """Conflicts among the rows to teach, each with the numbers of its rows by key."""
        table = rows.table
        copies = _Copies(table.column("key"))
        for members in _same_questions(table, self._comparable(rows)):
            counted = [copy for number in members for copy in copies.of(number)]
            examples = [table.row(number) for number in sorted(counted)[:MAX_ROWS]]
            conflict = conflict_among(examples, self)
            if conflict is not None:
                yield conflict, {table.row(number).key: number for number in members}

    def _comparable(self, rows: Selection) -> Array:
        """Rows to teach whose answers could contradict others."""
        train = rows.train
        if self.long_answers == "review":
            return train
        table = rows.table
        sizes = table.column("num_characters") - table.column("num_prompt_characters")
        return train[sizes[train] <= self.label_characters]

    def _losers(
        self, conflict: Conflict, places: dict[str, int], book: "CaseBook | None"
    ) -> Removal:
        """The rows of a conflict that are not taught, and who decided that."""
        ruling = book.ruling(conflict) if book else None
        decision = decide(conflict, self) if self.review == "undecided" else None
        if ruling is not None:
            kept, reason = ruling, REJECTED()
        elif decision is not None:
            kept, reason = frozenset(decision.kept), RULED(rule=self.rule)
        else:
            kept, reason = frozenset(), WAITING()
        keys = dict.fromkeys(row.key for row in conflict.rows if row.key not in kept)
        return Removal(np.array([places[k] for k in keys if k in places], np.int64), reason)

    def _corrected(self, rows: Selection, seen: Seen) -> tuple[frozenset[str], frozenset[str]]:
        """Keys of rows taught before, and of rows held out before, that this round contradicts."""
        corrected, retired = set[str](), set[str]()
        comparable = self._comparable(rows)
        corrections = np.flatnonzero(rows.is_in & rows.is_correction)
        for version in seen:
            taught = version.taught_texts
            old = self._contradictions(rows.table, comparable, taught, np.arange(len(taught)))
            corrected |= {known.key for _, known in old}
            held = self._contradictions(rows.table, corrections, version.tested, version.asked)
            retired |= {known.key for _, known in held}
        return frozenset(corrected), frozenset(retired)

    def _contradictions(
        self, table: RowTable, rows: Array, other: RowTable, other_rows: Array
    ) -> Iterator[tuple[int, Example]]:
        """Those of `rows` that contradict a row of the other table, each with that one."""
        for row, old in _other_answers(table, rows, other, other_rows):
            new, known = table.row(row), other.row(old)
            if same_question(new, known) and conflict_among([known, new], self) is not None:
                yield row, known


def _judged(rows: Selection, book: "CaseBook | None", verdict: str, reason: str) -> Removal:
    """Rows to teach about which people decided so, or still have to."""
    if book is None or not book.disputed:
        return Removal(np.empty(0, np.int64), reason)
    table, train = rows.table, rows.train
    asked = question_hashes(book.disputed)
    alike = train[np.isin(table.column("question")[train], asked)].tolist()
    judged = [number for number in alike if book.verdict(table.row(number)) == verdict]
    return Removal(np.array(judged, np.int64), reason)


def _same_questions(table: RowTable, rows: Array) -> Iterator[list[int]]:
    """Rows in sets that ask the same, or nearly, with more than one answer in each set."""
    groups = _Groups()
    answers = table.column("answer")
    for pair in _pairs(table, rows):
        groups.join(*pair)
    for members in groups.sets():
        if len({int(answers[number]) for number in members}) > 1:
            yield members[:MAX_ROWS]


def _pairs(table: RowTable, rows: Array) -> Iterator[tuple[int, int]]:
    """Rows that ask the same: found by hash or by bands, then compared word for word."""
    compared = set[tuple[int, int]]()
    for pair in chain(_equal(table, rows), pairs_within(table, "prompt_bands", rows)):
        if pair not in compared and same_question(table.row(pair[0]), table.row(pair[1])):
            yield pair
        compared.add(pair)


def _equal(table: RowTable, rows: Array) -> Iterator[tuple[int, int]]:
    """Rows whose questions have the same hash, each with the one before it."""
    questions = table.column("question")[rows]
    order = np.argsort(questions, kind="stable")
    ordered, numbers = questions[order], rows[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
        yield int(numbers[place + 1]), int(numbers[place])


def _other_answers(
    table: RowTable, rows: Array, other: RowTable, other_rows: Array
) -> Iterator[tuple[int, int]]:
    """Rows that ask the same as one of the other table's rows and answer differently."""
    if not len(rows) or not len(other_rows):
        return
    questions, answers = table.column("question")[rows], table.column("answer")[rows]
    order = np.argsort(questions, kind="stable")
    questions, answers, rows = questions[order], answers[order], rows[order]
    theirs, their_answers = other.column("question")[other_rows], other.column("answer")[other_rows]
    start = np.searchsorted(questions, theirs, side="left")
    end = np.searchsorted(questions, theirs, side="right")
    for old in np.flatnonzero(end > start).tolist():
        for place in range(start[old], end[old]):
            if answers[place] != their_answers[old]:
                yield int(rows[place]), int(other_rows[old])


class _Copies:
    """Equal rows: only one of them is taught, but all of them count where rows are counted."""

    def __init__(self, keys: Array) -> None:
        self._keys = keys
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]

    def of(self, row: int) -> list[int]:
        start, end = (
            int(np.searchsorted(self._sorted, self._keys[row], side=side))
            for side in ("left", "right")
        )
        copies: list[int] = self._order[start:end].tolist()
        return copies


class _Groups:
    """Sets of rows joined pair by pair."""

    def __init__(self) -> None:
        self._first: dict[int, int] = {}

    def join(self, one: int, other: int) -> None:
        low, high = sorted((self._root(one), self._root(other)))
        self._first[high] = low

    def sets(self) -> Iterator[list[int]]:
        found: dict[int, list[int]] = {}
        for row in sorted(self._first):
            found.setdefault(self._root(row), []).append(row)
        yield from found.values()

    def _root(self, row: int) -> int:
        first = self._first.setdefault(row, row)
        while first != self._first[first]:
            first = self._first[first]
        self._first[row] = first
        return first
