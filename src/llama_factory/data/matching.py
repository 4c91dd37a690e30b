"""Pairs of rows that are nearly the same: candidates by MinHash bands, then exact similarity.

Rows that follow one template share a band with very many others, and nearly all of them differ in
what is not the template. Of those, only rows that share one of their rarest pieces are compared:
two sets of n and m pieces with a Jaccard similarity of at least t share one of the first
n - ceil(t n) + 1 of the one and of the first m - ceil(t m) + 1 of the other, in any order of all
pieces. No pair is lost by that.

Chaudhuri, Ganti and Kaushik, "A primitive operator for similarity joins in data cleaning", 2006;
Bayardo, Ma and Srikant, "Scaling up all pairs similarity search", 2007.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from pathlib import Path
from typing import Any, Self

import numpy as np

from llama_factory.core import files
from llama_factory.core.types import Example
from llama_factory.data.row_columns import Array, class_runs, comparable_text, prompt_text
from llama_factory.data.store import RowTable
from llama_factory.text import signatures

MAX_ROWS_AT_ONCE = 1 << 20
"""Rows whose band is sorted at once; more are done range by range of the hash."""
CACHED_TEXTS = 256
VERY_SIMILAR, FEW_BANDS = 0.9, 6
"""From a similarity of 0.9 on, 6 bands of 7 values find 98 % of the pairs."""
FEW_PAIRS = 4
"""Rows of one band are all compared while they make at most this many pairs for each of them."""
MAX_TEXTS = 1 << 13
"""Rows of one band whose pieces are held at once."""
SLACK = 0.9
"""Texts that repeat themselves are longer than their distinct pieces."""
LABEL_WIDTH = 40
"""A shorter answer must be the same: one word of it may turn the row into its contrary."""


class TextComparison:
    """Compares rows of tables by text; what was compared before is remembered on disk.

    Args:
        at_least: lowest similarity of two rows that are nearly the same.
        band: name of the column of bands, which decides what of a row is compared.
        cache: folder of what was compared before; None remembers nothing.
    """

    def __init__(self, at_least: float, band: str = "bands", cache: Path | None = None) -> None:
        self.at_least = at_least
        self.band = band
        self._text = comparable_text if band == "bands" else prompt_text
        self._recent: OrderedDict[int, _Features] = OrderedDict()
        name = f"alike-{band}-{at_least}-{signatures.version()}.npy"
        self._path = cache / name if cache else None
        self._known = _read_pairs(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._path is not None and self._known:
            _write_pairs(self._path, self._known)

    @property
    def num_bands(self) -> int:
        """Bands to look at: very similar rows share most of them, so a few will do."""
        return FEW_BANDS if self.at_least >= VERY_SIMILAR else signatures.NUM_BANDS

    def sizes(self, table: RowTable) -> Array:
        """Length of what is compared of each row, in characters."""
        whole = self.band == "bands"
        return table.column("num_characters" if whole else "num_prompt_characters")

    def may_fit(self, sizes: Array, size: int) -> Array:
        """Whether rows of these lengths can be as similar to one of `size` as is asked."""
        small, large = np.minimum(sizes, size), np.maximum(sizes, size)
        return np.asarray(small >= SLACK * self.at_least * large)

    def are_alike(self, one: tuple[RowTable, int], other: tuple[RowTable, int]) -> bool:
        """Whether two rows are nearly the same.

        They are similar enough, hold the same numbers, and give the same answer where it is short.
        """
        pair = self._key(*one), self._key(*other)
        if pair not in self._known:
            first, second = self._features(pair[0], *one), self._features(pair[1], *other)
            is_similar = _similarity(first.pieces, second.pieces) >= self.at_least
            self._known[pair] = first.facts == second.facts and is_similar
        return self._known[pair]

    def _key(self, table: RowTable, number: int) -> int:
        return int(table.keys[number])

    def _features(self, key: int, table: RowTable, number: int) -> "_Features":
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        self._recent[key] = self.features_of(table, number)
        if len(self._recent) > CACHED_TEXTS:
            self._recent.popitem(last=False)
        return self._recent[key]

    def features_of(self, table: RowTable, number: int) -> "_Features":
        """What of a row is compared, read from disk."""
        row = table.row(number)
        text = self._text(row)
        facts = [*signatures.numbers(text), *self._label(row)]
        return _Features(facts, signatures.pieces(text))

    def _label(self, row: Example) -> list[str]:
        """The answer where it is a label or a short fact, and whole rows are compared."""
        if self.band != "bands" or row.is_text or signatures.width(row.answer) > LABEL_WIDTH:
            return []
        return [signatures.letters_and_digits(row.answer)]


@dataclass(frozen=True)
class _Features:
    """What two rows must share word for word, and the pieces of their text."""

    facts: list[str]
    pieces: frozenset[str]


def _similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity, from 0 to 1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


_PAIR = np.dtype([("one", np.uint64), ("other", np.uint64), ("is_alike", np.bool_)])


def _read_pairs(path: Path | None) -> dict[tuple[int, int], bool]:
    if path is None or not path.exists():
        return {}
    rows = np.load(path, allow_pickle=False)
    pairs = zip(rows["one"].tolist(), rows["other"].tolist(), strict=True)
    return dict(zip(pairs, rows["is_alike"].tolist(), strict=True))


def _write_pairs(path: Path, known: Mapping[tuple[int, int], bool]) -> None:
    rows = np.array([(*pair, is_alike) for pair, is_alike in known.items()], _PAIR)
    with files.writing(path) as file:
        np.save(file, rows, allow_pickle=False)


def alike_within(texts: TextComparison, table: RowTable, rows: Array) -> Array:
    """Those of some rows (numbers, rising) that are nearly the same as one that stays before them.

    Args:
        texts: decides whether two rows are nearly the same.
        table: of the rows.
        rows: numbers of the rows.
    """
    is_in = np.ones(len(table), np.bool_)
    return _alike(texts, table, table, pairs_within(table, texts.band, rows, is_in), is_in)


def alike_between(
    texts: TextComparison,
    table: RowTable,
    rows: Array,
    other: RowTable,
    other_rows: Array | None = None,
) -> Array:
    """Those of some rows of one table that are nearly the same as a row of another.

    Args: as of `pairs_between`.
    """
    is_in = np.ones(len(table), np.bool_)
    pairs = pairs_between(texts, table, rows, other, other_rows, is_in=is_in)
    return _alike(texts, table, other, pairs, is_in)


def _alike(
    texts: TextComparison,
    table: RowTable,
    other: RowTable,
    pairs: Iterator[tuple[int, int]],
    is_in: Array,
) -> Array:
    """The first rows of the pairs that are alike, each once; they leave `is_in` at once."""
    found = []
    for row, near in pairs:
        if is_in[row] and texts.are_alike((table, row), (other, near)):
            is_in[row] = False
            found.append(row)
    return np.array(found, np.int64)


def pairs_within(
    table: RowTable, band: str, rows: Array, is_in: Array | None = None
) -> Iterator[tuple[int, int]]:
    """Candidates among some rows of a table: (later row, earlier row).

    Of the rows that share a band, each is paired with the first and with the one before it.

    Args:
        table: of the rows.
        band: name of the column of bands.
        rows: numbers of the rows.
        is_in: [rows of the table] those still in; who takes pairs may take rows out meanwhile.
    """
    for number in range(signatures.NUM_BANDS):
        rows = rows if is_in is None else rows[is_in[rows]]
        column = table.column(band, number)[rows]
        for piece in _hash_ranges(column):
            yield from _pairs_in(column[piece], rows[piece])


def _pairs_in(hashes: Array, rows: Array) -> Iterator[tuple[int, int]]:
    order = np.argsort(hashes, kind="stable")
    hashes, rows = hashes[order], rows[order]
    is_same = hashes[1:] == hashes[:-1]
    if not is_same.any():
        return
    starts = np.concatenate([[0], np.flatnonzero(~is_same) + 1])
    first = np.repeat(rows[starts], np.diff(np.concatenate([starts, [len(rows)]])))
    later, before, first = rows[1:][is_same], rows[:-1][is_same], first[1:][is_same]
    for row, previous, earliest in zip(
        later.tolist(), before.tolist(), first.tolist(), strict=True
    ):
        yield row, earliest
        if previous != earliest:
            yield row, previous


def _hash_ranges(column: Array) -> Iterator[Array]:
    """Places of the column in groups small enough to sort; equal hashes stay together."""
    num_ranges = -(-len(column) // MAX_ROWS_AT_ONCE)
    if num_ranges <= 1:
        yield np.arange(len(column))
        return
    width = (1 << 32) // num_ranges + 1
    for number in range(num_ranges):
        yield np.flatnonzero(column // np.uint32(width) == number)


def pairs_between(
    texts: TextComparison,
    table: RowTable,
    rows: Array,
    other: RowTable,
    other_rows: Array | None = None,
    *,
    is_in: Array | None = None,
) -> Iterator[tuple[int, int]]:
    """Candidates between some rows of one table and those of another: (row, row of the other).

    Rows whose lengths differ too much to be as similar as `texts` asks are left out.

    Args:
        texts: says what of a row is compared.
        table: of the rows.
        rows: numbers of the rows.
        other: the other table.
        other_rows: numbers of its rows; None for all.
        is_in: [rows of the table] those still in; who takes pairs may take rows out meanwhile.
    """
    is_in = np.ones(len(table), np.bool_) if is_in is None else is_in
    others = np.arange(len(other)) if other_rows is None else other_rows
    if not len(rows) or not len(others):
        return
    sizes, other_sizes = texts.sizes(table)[rows], texts.sizes(other)[others]
    for number in range(texts.num_bands):
        mine, theirs = (each.column(texts.band, number) for each in (table, other))
        for places, same in _same_values(mine[rows], theirs[others]):
            if len(places) * len(same) > FEW_PAIRS * (len(places) + len(same)):
                yield from _likely_pairs(texts, (table, rows[places], is_in), (other, others[same]))
            else:
                for hit in same:
                    fit = places[texts.may_fit(sizes[places], other_sizes[hit])]
                    yield from ((row, int(others[hit])) for row in rows[fit].tolist())


def _same_values(mine: Array, theirs: Array) -> Iterator[tuple[Array, Array]]:
    """For each value that both columns hold, its places in the one and in the other."""
    order = np.argsort(mine, kind="stable")
    mine = mine[order]
    start = np.searchsorted(mine, theirs, side="left")
    end = np.searchsorted(mine, theirs, side="right")
    hits = np.flatnonzero(end > start)
    by_value, begins = class_runs(start[hits])
    for same in np.split(hits[by_value], begins[1:]) if len(hits) else ():
        yield order[start[same[0]] : end[same[0]]], same


def _likely_pairs(
    texts: TextComparison, mine: tuple[RowTable, Array, Array], theirs: tuple[RowTable, Array]
) -> Iterator[tuple[int, int]]:
    """Pairs of many rows that share a band: those with the same facts and a rare piece in common.

    Args:
        texts: says what of a row is compared, and how similar rows must be.
        mine: a table, numbers of rows, and which rows of the table are still in.
        theirs: the other table, and numbers of its rows.
    """
    table, rows, is_in = mine
    other, others = theirs
    for part in _pieces(rows):
        part_features = [texts.features_of(table, row) for row in part]
        for known in _pieces(others):
            known_features = [texts.features_of(other, row) for row in known]
            rare = _rarest([*part_features, *known_features], texts.at_least)
            holders = _holders(rare[len(part) :], known)
            for row, keys in zip(part, rare, strict=False):
                found = dict.fromkeys(each for key in keys for each in holders.get(key, ()))
                for each in found:
                    if not is_in[row]:
                        break
                    yield row, each


def _pieces(rows: Array) -> Iterator[list[int]]:
    for start in range(0, len(rows), MAX_TEXTS):
        yield rows[start : start + MAX_TEXTS].tolist()


def _rarest(features: Sequence["_Features"], at_least: float) -> list[list[tuple[Any, ...]]]:
    """Of each text its rarest pieces, of which two texts so similar share one; with its facts."""
    counts = Counter(piece for each in features for piece in each.pieces)
    found = []
    for each in features:
        size = len(each.pieces)
        number = size - math.ceil(at_least * size - 1e-9) + 1
        rare = nsmallest(number, each.pieces, key=lambda piece: (counts[piece], piece))
        found.append([(piece, *each.facts) for piece in rare])
    return found


def _holders(rare: Sequence[list[tuple[Any, ...]]], rows: Sequence[int]) -> dict[Any, list[int]]:
    """The rows that hold each of the rare pieces."""
    holders: dict[Any, list[int]] = {}
    for row, keys in zip(rows, rare, strict=True):
        for key in keys:
            holders.setdefault(key, []).append(row)
    return holders
