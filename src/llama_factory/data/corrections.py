"""Rows of earlier rounds whose answer this round corrects: neither rehearsed nor asked any more.

Without this, replay would teach the old answer beside the new one, round after round; and a gate
that still asked for the old answer of a held-out question would take learning the new one for
forgetting.
"""

from collections.abc import Iterator

import numpy as np

from llama_factory.core.types import Example
from llama_factory.data.conflicts import ConflictSettings, conflict_among, same_question
from llama_factory.data.sorting import Sorting
from llama_factory.data.table import Array, RowTable


def mark_corrections(sorting: Sorting, settings: ConflictSettings) -> None:
    """Mark rows that answer a held-out question of an earlier round anew: they are to be taught.

    Args:
        sorting: gets the marks in `is_correction`.
        settings: say what a contradiction is.
    """
    rows = np.arange(len(sorting.table))
    for seen in sorting.seen:
        for row, _ in _contradictions(sorting, rows, (seen.tested, seen.asked), settings):
            sorting.is_correction[row] = True


def find_corrected(sorting: Sorting, rows: Array, settings: ConflictSettings) -> None:
    """Note the keys of taught and of held-out rows that rows of this round contradict.

    Args:
        sorting: gets them in `corrected` and `retired`.
        rows: numbers of the rows to teach whose answers could contradict others.
        settings: say what a contradiction is.
    """
    still = np.flatnonzero(sorting.is_in & sorting.is_correction)
    for seen in sorting.seen:
        taught = (seen.taught_texts, np.arange(len(seen.taught_texts)))
        for _, known in _contradictions(sorting, rows, taught, settings):
            sorting.corrected.add(known.key)
        for _, known in _contradictions(sorting, still, (seen.tested, seen.asked), settings):
            sorting.retired.add(known.key)


def _contradictions(
    sorting: Sorting, rows: Array, others: tuple[RowTable, Array], settings: ConflictSettings
) -> Iterator[tuple[int, Example]]:
    """Those of `rows` that contradict one of the others (rows of a table), with that one."""
    for row, old in _same_question(sorting.table, rows, *others):
        new, known = sorting.table.row(row), others[0].row(old)
        if same_question(new, known) and conflict_among([known, new], settings) is not None:
            yield row, known


def _same_question(
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
