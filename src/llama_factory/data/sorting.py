"""The rows of a round on their way: which are still in, and on which side of the split."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llama_factory.data.conflicts import Conflict
from llama_factory.data.intake import Sample, Tally, difference
from llama_factory.data.review.case_book import Book
from llama_factory.data.seen import Seen
from llama_factory.data.table import Array, RowTable


@dataclass
class Sorting:
    """What set steps look at and change.

    Attributes:
        table: all rows of the round that survived on their own.
        seen: what the lineage was taught and tested on.
        is_in: [rows] whether a row is still in.
        is_correction: [rows] whether it answers a held-out question of an earlier round anew.
        is_test: [rows] whether it is held out for testing.
        tally: counts what is dropped and why.
        conflicts: rows with the same question and different answers, settled or waiting.
        corrected: keys of rows taught before whose answer this round corrects.
        retired: keys of rows held out before whose answer this round corrects.
        book: what people decided about conflicts before.
        cache: folder of what was compared before.
    """

    table: RowTable
    seen: Seen
    is_test: Array
    tally: Tally = field(default_factory=Tally)
    conflicts: list[Conflict] = field(default_factory=list)
    corrected: set[str] = field(default_factory=set)
    retired: set[str] = field(default_factory=set)
    book: Book | None = None
    cache: Path | None = None
    is_in: Array = field(init=False)
    is_correction: Array = field(init=False)

    def __post_init__(self) -> None:
        self.is_in = np.ones(len(self.table), np.bool_)
        self.is_correction = np.zeros(len(self.table), np.bool_)

    @property
    def train(self) -> Array:
        """Numbers of the rows to teach, in order."""
        return np.flatnonzero(self.is_in & ~self.is_test)

    @property
    def test(self) -> Array:
        """Numbers of the rows to test."""
        return np.flatnonzero(self.is_in & self.is_test)

    def drop(self, rows: Array, step: str, reason: str) -> None:
        """Take rows out; those that are out already do not count twice."""
        rows = rows[self.is_in[rows]]
        if not len(rows):
            return
        self.is_in[rows] = False
        self.tally.dropped[step, reason] += len(rows)
        for number in rows[: self.tally.samples_wanted(step, reason)].tolist():
            row = self.table.row(number)
            before, _ = difference(row)
            self.tally.show(Sample(step, reason, row.file, row.line, before))

    def drop_one(self, row: int, step: str, reason: str) -> None:
        """Take one row out."""
        self.drop(np.array([row]), step, reason)
