"""How many rows of each set are taught, and in which order: limits, balance, shares."""

from collections.abc import Mapping, Sequence

import numpy as np

from llama_factory.core.errors import DataError, suggest
from llama_factory.data.intake import CleanSource
from llama_factory.data.row_columns import Array, class_runs
from llama_factory.data.settings import MixSettings
from llama_factory.data.store import RowTable


def mixed(
    table: RowTable, rows: Array, sources: Sequence[CleanSource], settings: MixSettings
) -> Array:
    """The rows to teach in the order wanted, some left out and some repeated.

    Args:
        table: the rows of all sources, one source after the other.
        rows: numbers of the rows that may be taught, in order.
        sources: where the rows come from.
        settings: limits, balance, shares.
    """
    rows = _limited(table, rows, sources, settings)
    rows = _balanced(table, rows, settings)
    return _interleaved(table, rows, settings)


def _limited(
    table: RowTable, rows: Array, sources: Sequence[CleanSource], settings: MixSettings
) -> Array:
    """At most `max_samples` rows of each set, and `num_samples` where a set asks for that many."""
    starts = np.cumsum([0, *(each.num_rows for each in sources)])
    chosen = [np.empty(0, np.int64)]
    for each, start, end in zip(sources, starts[:-1], starts[1:], strict=True):
        own = rows[slice(*np.searchsorted(rows, [start, end]))][: settings.max_samples]
        wanted = each.source.num_samples
        chosen.append(own if wanted is None else _resized(table, own, wanted))
    return np.concatenate(chosen)


def _resized(table: RowTable, rows: Array, wanted: int) -> Array:
    """`wanted` rows: those whose content hash is lowest, or all of them again and again."""
    if not len(rows):
        return rows
    if wanted < len(rows):
        return np.sort(rows[np.argsort(table.keys[rows], kind="stable")[:wanted]])
    return np.resize(rows, wanted)


def _balanced(table: RowTable, rows: Array, settings: MixSettings) -> Array:
    """As many rows of each class as the smallest or (by repeating) the largest has."""
    if settings.balance == "none" or not len(rows):
        return rows
    names = ("group", "answer") if settings.balance_by == "answer" else ("group",)
    columns = [table.column(name)[rows] for name in names]
    if settings.balance == "under":
        by_key = np.argsort(table.keys[rows], kind="stable")
        rows, columns = rows[by_key], [column[by_key] for column in columns]
    by_class, starts = class_runs(*columns)
    sizes = np.diff(np.append(starts, len(rows)))
    place = np.arange(len(rows)) - np.repeat(starts, sizes)
    if settings.balance == "under":
        return np.sort(rows[by_class[place < sizes.min()]])
    times, rest = np.divmod(sizes.max(), np.repeat(sizes, sizes))
    return np.sort(np.repeat(rows[by_class], times + (place < rest)))


def _interleaved(table: RowTable, rows: Array, settings: MixSettings) -> Array:
    """Rows of all groups in turn, each group with its fraction."""
    if settings.strategy == "concat" or not len(rows):
        return rows
    groups = table.column("group")[rows]
    by_group, starts = class_runs(groups)
    names = (table.groups[number] for number in groups[by_group[starts]].tolist())
    sets = dict(zip(names, np.split(rows[by_group], starts[1:]), strict=True))
    shares = _shares(list(sets), settings.shares)
    totals = [len(part) / shares[name] for name, part in sets.items()]
    total = min(totals) if settings.strategy == "interleave_under" else max(totals)
    counts = {name: max(1, round(total * shares[name])) for name in sets}
    parts = [np.resize(part, counts[name]) for name, part in sets.items()]
    turns = [(np.arange(len(part)) + 0.5) / len(part) for part in parts]
    return np.concatenate(parts)[np.argsort(np.concatenate(turns), kind="stable")]


def _shares(names: Sequence[str], given: Mapping[str, float]) -> dict[str, float]:
    """The fraction of each group; they add up to 1."""
    if not given:
        return dict.fromkeys(names, 1 / len(names))
    for name in given:
        if name not in names:
            raise DataError(f"data.mix.shares: no rows of group '{name}'.{suggest(name, names)}")
    missing = [name for name in names if given.get(name, 0) <= 0]
    if missing:
        raise DataError(f"data.mix.shares: '{missing[0]}' needs a share above 0, as all groups do.")
    return {name: given[name] / sum(given.values()) for name in names}
