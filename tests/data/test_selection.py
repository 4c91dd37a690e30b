"""The split of many classes: what it chooses, against a definition that is slow and plain."""

import numpy as np
import pytest

from llama_factory.data.selection import FEWEST_ROWS_TO_SPLIT, Selection, split


class Columns:
    """A table of which only the columns are looked at."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(self.columns["key"])

    def column(self, name):
        return self.columns[name]


def many(seed, num_rows, num_groups, num_answers):
    draw = np.random.default_rng(seed)
    table = Columns(
        key=np.arange(num_rows, dtype=np.uint64),
        prompt=draw.integers(0, 2**64, num_rows, np.uint64),
        answer=draw.integers(0, num_answers, num_rows).astype(np.uint64) << np.uint64(40),
        group=draw.integers(0, num_groups, num_rows).astype(np.uint32),
        is_testable=draw.random(num_rows) < 0.9,
    )
    is_test, is_in = draw.random(num_rows) < 0.001, draw.random(num_rows) < 0.95
    return Selection(table, is_in, is_test, draw.random(num_rows) < 0.02, is_test & False)


def plainly_held_out(selection, fraction, *, by_answer):
    """One class after the other: those below the limit, and in any case the lowest."""
    table = selection.table
    groups, places = table.column("group"), table.column("prompt") >> np.uint64(32)
    classes = list(zip(groups.tolist(), table.column("answer").tolist(), strict=True))
    classes = classes if by_answer else groups.tolist()
    tested = set(groups[selection.test].tolist())
    members: dict[object, list[int]] = {}
    for row, name in enumerate(classes):
        may_move = selection.is_in[row] and not selection.is_test[row] and groups[row] not in tested
        if may_move and not selection.is_correction[row] and table.column("is_testable")[row]:
            members.setdefault(name, []).append(row)
    held_out = selection.is_test.copy()
    for rows in members.values():
        if len(rows) >= FEWEST_ROWS_TO_SPLIT:
            limit = max(int(fraction * 16**8), int(places[rows].min()) + 1)
            held_out[[row for row in rows if places[row] < limit]] = True
    return held_out


@pytest.mark.variants
@pytest.mark.parametrize("by_answer", [False, True])
@pytest.mark.parametrize("fraction", [1e-9, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("shape", [(0, 1, 1), (3, 1, 1), (40, 1, 3), (3000, 60, 8), (3000, 999, 2)])
def test_the_split_is_that_of_each_class_on_its_own(shape, fraction, by_answer):
    for seed in range(4):
        rows = many(seed, *shape)
        wanted = plainly_held_out(rows, fraction, by_answer=by_answer)
        assert (split(rows, fraction, by_answer=by_answer).is_test == wanted).all()
