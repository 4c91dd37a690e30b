"""How many rows of each set are taught, and in which order: limits, balance, shares."""

from collections.abc import Mapping, Sequence

import numpy as np

from llama_factory.core.errors import DataError, suggest
from llama_factory.data.intake import Taken
from llama_factory.data.settings import MixSettings
from llama_factory.data.sorting import Sorting
from llama_factory.data.table import Array, RowTable, class_runs

STEP = "mix"
LEFT_OUT = "left out by data.mix"


def select(sorting: Sorting, taken: Sequence[Taken], settings: MixSettings) -> Array | None:
    """Drop the rows that the mix leaves out.

    Returns:
        Places among the rows to teach, in the order wanted and with repeats; None for all of them
        once, as they are.
    """
    before = sorting.train
    order = _limited(sorting, taken, settings)
    order = _balanced(sorting, order, settings)
    order = _interleaved(sorting, order, settings)
    left_out = before[~np.isin(before, order)]
    sorting.drop(left_out, STEP, LEFT_OUT)
    train = sorting.train
    if np.array_equal(order, train):
        return None
    return np.searchsorted(train, order)


def _limited(sorting: Sorting, taken: Sequence[Taken], settings: MixSettings) -> Array:
    """At most `max_samples` rows of each set, and `num_samples` where a set asks for that many."""
    starts = np.cumsum([0, *(len(RowTable(each.parts)) for each in taken)])
    train, chosen = sorting.train, []
    for each, start, end in zip(taken, starts[:-1], starts[1:], strict=True):
        rows = train[slice(*np.searchsorted(train, [start, end]))]
        if settings.max_samples is not None:
            rows = rows[: settings.max_samples]
        wanted = each.source.num_samples
        chosen.append(rows if wanted is None else _resized(sorting, rows, wanted))
    return np.concatenate([np.empty(0, np.int64), *chosen])


def _resized(sorting: Sorting, rows: Array, wanted: int) -> Array:
    """`wanted` rows: those whose content hash is lowest, or all of them again and again."""
    if not len(rows):
        return rows
    if wanted < len(rows):
        return np.sort(rows[np.argsort(sorting.table.keys[rows], kind="stable")[:wanted]])
    return np.resize(rows, wanted)


def _balanced(sorting: Sorting, rows: Array, settings: MixSettings) -> Array:
    if settings.balance == "none" or not len(rows):
        return rows
    names = ("group", "answer") if settings.balance_by == "answer" else ("group",)
    columns = [sorting.table.column(name)[rows] for name in names]
    if settings.balance == "under":
        by_key = np.argsort(sorting.table.keys[rows], kind="stable")
        rows, columns = rows[by_key], [column[by_key] for column in columns]
    by_class, starts = class_runs(*columns)
    sizes = np.diff(np.append(starts, len(rows)))
    place = np.arange(len(rows)) - np.repeat(starts, sizes)
    if settings.balance == "under":
        return np.sort(rows[by_class[place < sizes.min()]])
    times, rest = np.divmod(sizes.max(), np.repeat(sizes, sizes))
    return np.sort(np.repeat(rows[by_class], times + (place < rest)))


def _interleaved(sorting: Sorting, rows: Array, settings: MixSettings) -> Array:
    """Rows of all groups in turn, each group with its share."""
    if settings.strategy == "concat" or not len(rows):
        return rows
    groups = sorting.table.column("group")[rows]
    by_group, starts = class_runs(groups)
    names = (sorting.table.groups[number] for number in groups[by_group[starts]].tolist())
    sets = dict(zip(names, np.split(rows[by_group], starts[1:]), strict=True))
    shares = _shares(list(sets), settings.shares)
    totals = [len(part) / shares[name] for name, part in sets.items()]
    total = min(totals) if settings.strategy == "interleave_under" else max(totals)
    counts = {name: max(1, round(total * shares[name])) for name in sets}
    parts = [np.resize(part, counts[name]) for name, part in sets.items()]
    turns = [(np.arange(len(part)) + 0.5) / len(part) for part in parts]
    return np.concatenate(parts)[np.argsort(np.concatenate(turns), kind="stable")]


def _shares(names: Sequence[str], given: Mapping[str, float]) -> dict[str, float]:
    """The share of each group; they add up to 1."""
    if not given:
        return dict.fromkeys(names, 1 / len(names))
    for name in given:
        if name not in names:
            raise DataError(f"data.mix.shares: no rows of group '{name}'.{suggest(name, names)}")
    missing = [name for name in names if given.get(name, 0) <= 0]
    if missing:
        raise DataError(f"data.mix.shares: '{missing[0]}' needs a share above 0, as all groups do.")
    return {name: given[name] / sum(given.values()) for name in names}
