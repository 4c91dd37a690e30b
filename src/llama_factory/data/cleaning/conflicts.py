"""Rows that ask the same and answer differently: settled by a rule or a person, else held back."""

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from llama_factory.data.cleaning import CLEANERS, SetStep
from llama_factory.data.conflicts import ConflictSettings, conflict_among, decide, same_question

if TYPE_CHECKING:
    from llama_factory.data.conflicts import Conflict
    from llama_factory.data.sorting import Sorting
    from llama_factory.data.table import Array, RowTable

NAME = "conflicts"
WAITING = "conflicting answers wait for review"
MOST_ROWS = 200
"""Rows of one question that are compared with each other; the others are left as they are."""


@CLEANERS.register(NAME)
class Conflicts(ConflictSettings, SetStep):
    """Teaches one answer to a question. What no rule settles waits for `data review`.

    An answer of this round corrects that of an earlier one, which is not rehearsed any more, nor
    asked for where it was held out.
    """

    def look_ahead(self, sorting: "Sorting") -> None:
        """See `SetStep.look_ahead`."""
        from llama_factory.data.corrections import mark_corrections

        mark_corrections(sorting, self)

    def compare(self, sorting: "Sorting") -> None:
        """See `SetStep.compare`."""
        from llama_factory.data.corrections import find_corrected

        self._drop_by_verdict(sorting, "rejected", "another answer was chosen in review")
        copies = _Copies(sorting.table.column("key"))
        for rows in _same_questions(sorting, self._comparable(sorting)):
            counted = [copy for number in rows for copy in copies.of(number)]
            examples = [sorting.table.row(number) for number in sorted(counted)[:MOST_ROWS]]
            conflict = conflict_among(examples, self)
            if conflict is not None:
                places = {sorting.table.row(number).key: number for number in rows}
                self._settle(sorting, conflict, places)
        self._drop_by_verdict(sorting, "waiting", WAITING)
        find_corrected(sorting, self._comparable(sorting), self)

    def _drop_by_verdict(self, sorting: "Sorting", verdict: str, reason: str) -> None:
        """Drop rows that come alone and that people rejected, or still look at."""
        from llama_factory.data.table import make_fragment

        if sorting.book is None or not sorting.book.disputed:
            return
        asked = make_fragment(sorting.book.disputed).columns["question"]
        rows = sorting.train
        alike = rows[np.isin(sorting.table.column("question")[rows], asked)].tolist()
        judged = (n for n in alike if sorting.book.verdict(sorting.table.row(n)) == verdict)
        sorting.drop(np.array(list(judged), np.int64), NAME, reason)

    def _comparable(self, sorting: "Sorting") -> "Array":
        """Rows whose answers could contradict others."""
        rows = sorting.train
        if self.long_answers == "review":
            return rows
        table = sorting.table
        sizes = table.column("num_characters") - table.column("num_prompt_characters")
        return rows[sizes[rows] <= self.label_characters]

    def _settle(self, sorting: "Sorting", conflict: "Conflict", places: dict[str, int]) -> None:
        sorting.conflicts.append(conflict)
        ruling = sorting.book.ruling(conflict) if sorting.book else None
        decision = decide(conflict, self) if self.review == "undecided" else None
        if ruling is not None:
            kept, reason = ruling, "another answer was chosen in review"
        elif decision is not None:
            kept, reason = frozenset(decision.kept), f"another answer is right by rule {self.rule}"
        else:
            kept, reason = frozenset(), WAITING
        keys = {row.key for row in conflict.rows if row.key not in kept}
        dropped = [places[key] for key in keys if key in places]
        sorting.drop(np.array(dropped, np.int64), NAME, reason)


def _same_questions(sorting: "Sorting", rows: "Array") -> Iterator[list[int]]:
    """Rows in sets that ask the same, or nearly, with more than one answer in each set."""
    groups = _Groups()
    answers = sorting.table.column("answer")
    for pair in _pairs(sorting, rows):
        groups.join(*pair)
    for members in groups.sets():
        if len({int(answers[number]) for number in members}) > 1:
            yield members[:MOST_ROWS]


def _pairs(sorting: "Sorting", rows: "Array") -> Iterator[tuple[int, int]]:
    """Rows that ask the same: found by hash or by bands, then compared word for word."""
    from llama_factory.data.matching import pairs_within

    table, compared = sorting.table, set[tuple[int, int]]()
    for pair in chain(
        _equal(table, rows), pairs_within(table, "prompt_bands", rows, sorting.is_in)
    ):
        if pair not in compared and same_question(table.row(pair[0]), table.row(pair[1])):
            yield pair
        compared.add(pair)


def _equal(table: "RowTable", rows: "Array") -> Iterator[tuple[int, int]]:
    """Rows whose questions have the same hash, each with the one before it."""
    questions = table.column("question")[rows]
    order = np.argsort(questions, kind="stable")
    ordered, numbers = questions[order], rows[order]
    for place in np.flatnonzero(ordered[1:] == ordered[:-1]).tolist():
        yield int(numbers[place + 1]), int(numbers[place])


class _Copies:
    """Equal rows: only one of them is taught, but all of them count where rows are counted."""

    def __init__(self, keys: "Array") -> None:
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
