"""What no setting turns off: no row is taught twice, and no test question is ever taught."""

import numpy as np

from llama_factory.data.sorting import Sorting
from llama_factory.data.table import Array, class_runs

STEP = "exact"
FEWEST_ROWS_TO_SPLIT = 5
"""A group with fewer rows than this gives up none of them for testing."""


def drop_known(sorting: Sorting) -> None:
    """Drop rows taught or tested before, and all but the first of equal rows.

    A new answer to a question that was held out before stays.
    """
    keys, prompts = sorting.table.column("key"), sorting.table.column("prompt")
    for seen in sorting.seen:
        taught = np.isin(keys, seen.taught.column("key"))
        sorting.drop(np.flatnonzero(taught), STEP, f"taught before in {seen.version}")
        tested = np.isin(prompts, seen.tested.column("prompt")[seen.asked])
        tested &= ~sorting.is_correction
        sorting.drop(np.flatnonzero(tested), STEP, f"held out for testing in {seen.version}")
    still = np.flatnonzero(sorting.is_in)
    _, first = np.unique(keys[still], return_index=True)
    again = np.ones(len(still), np.bool_)
    again[first] = False
    sorting.drop(still[again], STEP, "twice in this round")
    _drop_tested(sorting, prompts)


def _drop_tested(sorting: Sorting, prompts: Array) -> None:
    train = sorting.train
    tested = np.isin(prompts[train], prompts[sorting.test])
    sorting.drop(train[tested], STEP, "its question is held out for testing in this round")


def split(sorting: Sorting, fraction: float, *, by_answer: bool) -> None:
    """Hold out the share of each group (or of each answer in it) whose prompt hash is lowest.

    A row's side depends on its own prompt and not on the other rows, so it never changes as data
    grows; only a class that would be left without a single test row gives up its lowest one.
    Groups with test rows of their own are left alone, and so are rows that no model should be held
    against: augmented ones, and bad answers (KTO). A correction is always taught.
    """
    if fraction == 0:
        return
    table = sorting.table
    groups, prompts = table.column("group"), table.column("prompt")
    places = prompts >> np.uint64(32)
    has_tests = np.isin(groups, groups[sorting.test])
    may_move = sorting.is_in & ~sorting.is_test & ~has_tests & ~sorting.is_correction
    may_move &= table.column("is_testable")
    rows = np.flatnonzero(may_move)
    columns = [groups[rows], table.column("answer")[rows]] if by_answer else [groups[rows]]
    by_class, starts = class_runs(*columns)
    rows, sizes = rows[by_class], np.diff(np.append(starts, len(rows)))
    lowest = np.minimum.reduceat(places[rows], starts) if len(rows) else places[rows]
    limits = np.maximum(lowest + np.uint64(1), np.uint64(fraction * 16**8))
    limits[sizes < FEWEST_ROWS_TO_SPLIT] = 0
    sorting.is_test[rows[places[rows] < np.repeat(limits, sizes)]] = True
    _drop_tested(sorting, prompts)
