"""Which rows of a round are taught and which held out: values that steps read and return.

What no setting turns off is decided here: no row is taught twice, and no test question is taught.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.data.conflict_rules import Conflict
from llama_factory.data.row_columns import Array, class_runs, hash_of
from llama_factory.data.seen import Seen
from llama_factory.data.store import RowTable

TAUGHT_BEFORE = kind_of_sentence("data.taught_before", "taught before in {version}")
TESTED_BEFORE = kind_of_sentence("data.tested_before", "held out for testing in {version}")
TWICE = kind_of_sentence("data.twice", "twice in this round")
FORGOTTEN = kind_of_sentence("data.forgotten", "marked to be forgotten")
TESTED_NOW = kind_of_sentence(
    "data.tested_now", "its question is held out for testing in this round"
)

if TYPE_CHECKING:
    from llama_factory.data.review.case_book import CaseBook

FEWEST_ROWS_TO_SPLIT = 5
"""A group with fewer rows than this gives up none of them for testing."""


@dataclass(frozen=True)
class Selection:
    """Which rows of a table are still in, and on which side of the split.

    Attributes:
        table: all rows of the round that survived on their own.
        is_in: [rows] whether a row is still in.
        is_test: [rows] whether it is held out for testing.
        is_correction: [rows] whether it answers a held-out question of an earlier round anew.
        is_taught: [rows] whether it is never held out.
    """

    table: RowTable
    is_in: Array
    is_test: Array
    is_correction: Array
    is_taught: Array

    @staticmethod
    def of(table: RowTable, is_test: Array, is_taught: Array | None = None) -> "Selection":
        """All rows of a table; none is known to correct anything."""
        none = np.zeros(len(table), np.bool_)
        taught = none if is_taught is None else is_taught
        return Selection(table, ~none, is_test, none.copy(), taught)

    def with_corrections(self, *rows: Sequence[int]) -> "Selection":
        """The selection in which rows (by number) answer held-out questions anew."""
        is_correction = self.is_correction.copy()
        for numbers in rows:
            is_correction[np.asarray(numbers, np.int64)] = True
        return replace(self, is_correction=is_correction)

    @property
    def train(self) -> Array:
        """Numbers of the rows to teach, in order."""
        return np.flatnonzero(self.is_in & ~self.is_test)

    @property
    def test(self) -> Array:
        """Numbers of the rows to test."""
        return np.flatnonzero(self.is_in & self.is_test)

    def without(self, *rows: Array) -> "Selection":
        """The selection with some rows (by number) taken out."""
        is_in = self.is_in.copy()
        for numbers in rows:
            is_in[numbers] = False
        return replace(self, is_in=is_in)


@dataclass(frozen=True)
class History:
    """What set steps compare the rows of a round with.

    Attributes:
        seen: what the lineage was taught and tested on, oldest version first.
        book: what people decided about conflicts; None where nobody is asked.
        cache: folder of pairs compared before; None where nothing is kept.
        forgotten: keys of rows that are not to be taught again.
    """

    seen: Seen = ()
    book: "CaseBook | None" = None
    cache: Path | None = None
    forgotten: Collection[str] = ()


@dataclass(frozen=True)
class Removal:
    """Rows to take out (by number, in the order they were noticed), and why."""

    rows: Array
    reason: str


@dataclass(frozen=True)
class Findings:
    """What a set step makes of a selection.

    Attributes:
        removals: rows to take out; those that are out already do not count twice.
        conflicts: rows with the same question and different answers, settled or waiting.
        corrected: keys of rows taught before whose answer this round corrects.
        retired: keys of rows held out before whose answer this round corrects.
    """

    removals: tuple[Removal, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    corrected: frozenset[str] = frozenset()
    retired: frozenset[str] = frozenset()


def known_rows(rows: Selection, seen: Seen, *, teaches_tests: bool = False) -> Iterator[Removal]:
    """Rows taught or tested before, and all but the first of equal rows.

    A new answer to a question that was held out before stays.

    Args:
        rows: of the round.
        seen: what the lineage was taught and tested on.
        teaches_tests: what is tested in this round may be taught in it too.
    """
    keys, prompts = rows.table.column("key"), rows.table.column("prompt")
    for version in seen:
        taught = np.flatnonzero(np.isin(keys, version.taught.column("key")))
        is_tested = np.isin(prompts, version.tested.column("prompt")[version.asked])
        tested = np.flatnonzero(is_tested & ~rows.is_correction)
        yield Removal(taught, TAUGHT_BEFORE(version=version.version))
        yield Removal(tested, TESTED_BEFORE(version=version.version))
        rows = rows.without(taught, tested)
    sides = (rows.test, rows.train) if teaches_tests else (np.flatnonzero(rows.is_in),)
    repeated = np.concatenate([_repeated(keys, side) for side in sides])
    yield Removal(repeated, TWICE())
    if not teaches_tests:
        yield tested_questions(rows.without(repeated))


def _repeated(keys: Array, rows: Array) -> Array:
    """All of some rows but the first of equal ones."""
    _, first = np.unique(keys[rows], return_index=True)
    return np.delete(rows, first)


def forgotten_rows(rows: Selection, keys: Collection[str]) -> Iterator[Removal]:
    """Rows that people marked to be forgotten."""
    if keys:
        marked = np.isin(rows.table.column("key"), np.array([*map(hash_of, keys)], np.uint64))
        yield Removal(np.flatnonzero(marked), FORGOTTEN())


def tested_questions(rows: Selection) -> Removal:
    """Rows to teach whose question is held out."""
    prompts, train = rows.table.column("prompt"), rows.train
    tested = np.isin(prompts[train], prompts[rows.test])
    return Removal(train[tested], TESTED_NOW())


def split(rows: Selection, fraction: float, *, by_answer: bool) -> Selection:
    """Hold out the fraction of each group (or of each answer in it) whose prompt hash is lowest.

    A row's side depends on its own prompt and not on the other rows, so it never changes as data
    grows; only a class that would be left without a single test row gives up its lowest one.
    Groups with test rows of their own are left alone, and so are rows that no model should be held
    against: augmented ones, and bad answers (KTO). Corrections of earlier answers and of users are
    always taught.
    """
    if fraction == 0:
        return rows
    table = rows.table
    groups, places = table.column("group"), table.column("prompt") >> np.uint64(32)
    has_tests = np.isin(groups, groups[rows.test])
    is_taught = rows.is_correction | rows.is_taught
    may_move = rows.is_in & ~rows.is_test & ~has_tests & ~is_taught
    chosen = np.flatnonzero(may_move & table.column("is_testable"))
    columns = [groups[chosen], table.column("answer")[chosen]] if by_answer else [groups[chosen]]
    by_class, starts = class_runs(*columns)
    chosen, sizes = chosen[by_class], np.diff(np.append(starts, len(chosen)))
    places = places[chosen]
    lowest = np.minimum.reduceat(places, starts) if len(chosen) else places
    limits = np.maximum(lowest + np.uint64(1), np.uint64(fraction * 16**8))
    limits[sizes < FEWEST_ROWS_TO_SPLIT] = 0
    is_test = rows.is_test.copy()
    is_test[chosen[places < np.repeat(limits, sizes)]] = True
    return replace(rows, is_test=is_test)
