"""Rows on disk with what is needed to compare them: JSON lines and one array a column.

A table of a million rows costs memory only for the columns being looked at.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

from llama_factory.core import files
from llama_factory.core.types import Example
from llama_factory.text import signatures

ROWS = "rows.jsonl"
ABOUT = "about.json"
COLUMNS: Mapping[str, Any] = {
    "key": np.uint64,
    "prompt": np.uint64,
    "question": np.uint64,
    "answer": np.uint64,
    "num_characters": np.uint32,
    "num_prompt_characters": np.uint32,
    "size": np.uint32,
    "line": np.uint32,
    "group": np.uint32,
    "is_testable": np.bool_,
}
"""What is kept of a row: hashes of its content and of its prompt, of its prompt and its answer
normalised; lengths of the normalised texts; bytes and line in its file; group; whether it may be
held out."""
BANDS = ("bands", "prompt_bands")
"""MinHash bands of the row and of its prompt, each [NUM_BANDS, rows]."""

Array = NDArray[Any]
TOGETHER = "columns.npy"
"""All columns of a part row by row: one file to open. Where a table is worked with, each column has
a file of its own."""
_TOGETHER = np.dtype(
    [*COLUMNS.items(), *((name, np.uint32, (signatures.NUM_BANDS,)) for name in BANDS)]
)


@dataclass(frozen=True)
class Fragment:
    """Some rows as bytes, and their columns; groups are numbered in `groups`."""

    lines: bytes
    columns: Mapping[str, Array]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.columns["size"])


def make_fragment(rows: Sequence[Example]) -> Fragment:
    """Serialise rows and compute their columns."""
    lines = [_encode(row.to_json()).encode() + b"\n" for row in rows]
    prompts = [signatures.normalised(_text(row.prompt)) for row in rows]
    answers = ["" if row.is_text else signatures.normalised(row.answer) for row in rows]
    texts = [f"{q} {a}" if a else q for q, a in zip(prompts, answers, strict=True)]
    places = _places(row.group for row in rows)
    columns = {
        "key": np.array([hash_of(row.key) for row in rows], np.uint64),
        "prompt": np.array([hash_of(row.prompt_key) for row in rows], np.uint64),
        "question": _hashes(prompts),
        "answer": _hashes(answers),
        "num_characters": np.array([len(text) for text in texts], np.uint32),
        "num_prompt_characters": np.array([len(text) for text in prompts], np.uint32),
        "size": np.array([len(line) for line in lines], np.uint32),
        "line": np.array([row.line for row in rows], np.uint32),
        "group": np.array([places[row.group] for row in rows], COLUMNS["group"]),
        "is_testable": np.array([_is_testable(row) for row in rows], np.bool_),
        "bands": signatures.band_hashes(texts).T,
        "prompt_bands": signatures.band_hashes(prompts).T,
    }
    return Fragment(b"".join(lines), columns, tuple(places))


def _places(groups: Iterable[str]) -> dict[str, int]:
    """The number of each name, in order of first appearance."""
    return {name: number for number, name in enumerate(dict.fromkeys(groups))}


def _is_testable(row: Example) -> bool:
    """Whether a model's answer may be held against this row's: it is real, and it is good."""
    return not row.augmented_by and row.is_desirable is not False


_encode = json.JSONEncoder(ensure_ascii=False).encode


def comparable_text(row: Example) -> str:
    """The normalised text by which rows are nearly the same: all turns but the system's."""
    return signatures.normalised(f"{_text(row.prompt)} {'' if row.is_text else row.answer}")


def prompt_text(row: Example) -> str:
    """The normalised text of all that is asked."""
    return signatures.normalised(_text(row.prompt))


def _text(turns: Iterable[Any]) -> str:
    said = [turn.content for turn in turns if turn.role != "system"]
    calls = [call.arguments for turn in turns for call in turn.tool_calls]
    return "\n".join(said + calls)


def hash_of(key: str) -> int:
    """The 64 bits of a 128-bit key that columns hold."""
    return int(key[:16], 16)


def _hashes(texts: Sequence[str]) -> Array:
    digests = [
        hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8) for text in texts
    ]
    return np.frombuffer(b"".join(each.digest() for each in digests), np.uint64)


def write_part(folder: Path, fragments: Sequence[Fragment]) -> None:
    """Write fragments one after another as one part of a table, whole or absent.

    Where another process has written the part meanwhile, that one stays.
    """
    places = _places(group for each in fragments for group in each.groups)
    columns = {name: _joined(fragments, name) for name in (*COLUMNS, *BANDS)}
    renumbered = [_renumbered(each.columns["group"], each.groups, places) for each in fragments]
    columns["group"] = np.concatenate([*renumbered, np.empty(0, COLUMNS["group"])])
    temporary = files.temporary_beside(folder)
    temporary.mkdir(parents=True)
    with (temporary / ROWS).open("wb") as file:
        file.writelines(each.lines for each in fragments)
    together = np.empty(len(columns["size"]), _TOGETHER)
    for name, column in columns.items():
        together[name] = column.T
    np.save(temporary / TOGETHER, together, allow_pickle=False)
    _write_about(temporary, len(columns["size"]), tuple(places))
    files.settle(temporary, folder)


def _write_about(folder: Path, num_rows: int, groups: Sequence[str]) -> None:
    about = {"rows": num_rows, "groups": list(groups), "signatures": signatures.version()}
    (folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def _array(values: Any) -> Array:
    return np.array(values)


def _joined(fragments: Sequence[Fragment], name: str) -> Array:
    empty = make_fragment(()).columns[name]
    return np.concatenate([empty, *(each.columns[name] for each in fragments)], axis=-1)


def _renumbered(column: Array, groups: Sequence[str], places: Mapping[str, int]) -> Array:
    """A column of numbers in `groups` as one of numbers in `places`."""
    return np.array([places[name] for name in groups], COLUMNS["group"])[column]


def class_runs(*columns: Array) -> tuple[Array, Array]:
    """Rows class by class: those that agree in all columns are one class.

    Returns:
        The places of the rows so ordered (within a class as they were), and where in that order
        each class begins.
    """
    order = np.lexsort(columns[::-1])
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.any([column[order][1:] != column[order][:-1] for column in columns], axis=0)
    return order, np.flatnonzero(is_first)


@dataclass(frozen=True)
class Part:
    """A piece of a table: the folder of its columns, and the file of its rows."""

    folder: Path
    rows: Path

    @staticmethod
    def of(folder: Path) -> "Part":
        """A part as `write_part` made it."""
        return Part(folder, folder / ROWS)

    @cached_property
    def about(self) -> dict[str, Any]:
        """Number of rows, names of groups, version of the signatures."""
        about: dict[str, Any] = files.read_json(self.folder / ABOUT)
        return about

    def column(self, name: str, band: int | None = None) -> Array:
        """One column, or one band of a column of bands, read from disk."""
        together = self.folder / TOGETHER
        if together.exists():
            values = np.load(together, allow_pickle=False)[name]
            return _array(values if band is None else values[:, band])
        path = self.folder / f"{name}.npy"
        if band is None:
            return _array(np.load(path, allow_pickle=False))
        return _array(np.load(path, mmap_mode="r", allow_pickle=False)[band])


class RowTable:
    """Rows of one or more parts, numbered through."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self._about = [part.about for part in self.parts]
        self._starts = [0, *accumulate(about["rows"] for about in self._about)]
        self._known_offsets: dict[int, Array] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def has_rows(self) -> bool:
        """Whether the rows themselves are kept, and not their columns alone."""
        return all(part.rows.exists() for part in self.parts)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The names that the column `group` numbers."""
        return tuple(dict.fromkeys(group for about in self._about for group in about["groups"]))

    @cached_property
    def _group_places(self) -> dict[str, int]:
        return _places(self.groups)

    @cached_property
    def keys(self) -> Array:
        """The content hash of every row."""
        return self.column("key")

    def joined(self, folder: Path) -> "RowTable":
        """The same rows with the columns of all parts in one place, where they are read faster."""
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            names = (*COLUMNS, *BANDS)
            opened = {n: stack.enter_context((folder / f"{n}.npy").open("wb")) for n in names}
            begins = {name: _write_header(opened[name], name, len(self)) for name in names}
            for number, part in enumerate(self.parts):
                values = np.load(part.folder / TOGETHER, allow_pickle=False)
                for name in names:
                    column = values[name].T
                    column = self._numbered(number, column) if name == "group" else column
                    rows = np.ascontiguousarray(column)
                    _write_rows(opened[name], begins[name], rows, self._starts[number], len(self))
        _write_about(folder, len(self), self.groups)
        table = RowTable(self.parts)
        table._joined = Part(folder, folder / ROWS)
        return table

    def column(self, name: str, band: int | None = None) -> Array:
        """One column of all rows; of a column of bands, only that band."""
        if self._joined is not None:
            return self._joined.column(name, band)
        empty = np.empty(0, COLUMNS.get(name, np.uint32))
        pieces = (self._piece(number, name, band) for number in range(len(self.parts)))
        return np.concatenate([empty, *pieces])

    def row(self, number: int) -> Example:
        """One row, read from disk."""
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        offsets = self._offsets(part)
        local = number - self._starts[part]
        with self.parts[part].rows.open("rb") as file:
            file.seek(int(offsets[local]))
            line = file.read(int(offsets[local + 1] - offsets[local]))
        return Example.from_json(json.loads(line))

    def lines(self, keep: Array) -> Iterator[bytes]:
        """The JSON lines of the rows that the mask `keep` names, in order; some come together."""
        for number, part in enumerate(self.parts):
            wanted = keep[self._starts[number] : self._starts[number + 1]].astype(np.int8)
            if not wanted.any():
                continue
            edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted, [0]])))
            offsets = self._offsets(number)[edges].tolist()
            with part.rows.open("rb") as file:
                for start, end in zip(offsets[::2], offsets[1::2], strict=True):
                    file.seek(start)
                    yield file.read(end - start)

    def write_columns(self, keep: Array, folder: Path) -> None:
        """The columns of the rows that the mask `keep` names, as a part without its rows."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in COLUMNS:
            np.save(folder / f"{name}.npy", self.column(name)[keep], allow_pickle=False)
        num_rows = int(keep.sum())
        for name in BANDS:
            with (folder / f"{name}.npy").open("wb") as file:
                _write_header(file, name, num_rows)
                for band in range(signatures.NUM_BANDS):
                    self.column(name, band)[keep].tofile(file)
        _write_about(folder, num_rows, self.groups)

    def _piece(self, number: int, name: str, band: int | None) -> Array:
        whole = self.parts[number].column(name, band)
        return self._numbered(number, whole) if name == "group" else whole

    def _numbered(self, part: int, column: Array) -> Array:
        """A part's column of groups, each as its number in `groups`."""
        return _renumbered(column, self._about[part]["groups"], self._group_places)

    def _offsets(self, part: int) -> Array:
        if part not in self._known_offsets:
            sizes = self.parts[part].column("size").astype(np.uint64)
            self._known_offsets[part] = np.concatenate([[np.uint64(0)], np.cumsum(sizes)])
        return self._known_offsets[part]

    _joined: Part | None = None


def _write_header(file: BinaryIO, name: str, num_rows: int) -> int:
    """Begin the file of a column; returns where its values begin."""
    kind = np.dtype(COLUMNS.get(name, np.uint32)).str
    shape = (signatures.NUM_BANDS, num_rows) if name in BANDS else (num_rows,)
    about = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.tell()


def _write_rows(file: BinaryIO, begin: int, values: Array, start: int, num_rows: int) -> None:
    """Put a part's values of a column (or of each of its bands) where they belong."""
    for number, band in enumerate(np.atleast_2d(values)):
        file.seek(begin + (number * num_rows + start) * band.itemsize)
        file.write(band.tobytes())


class RowFile(Sequence[Example]):
    """The rows of a JSON lines file that this program wrote.

    Args:
        path: the file; a missing one has no rows.
        order: row numbers in the order wanted, repeats allowed; None for the file's own order.
    """

    def __init__(self, path: Path, order: Array | None = None) -> None:
        self.path = path
        self._starts = _line_starts(path)
        self._order = order

    def __len__(self) -> int:
        return len(self._starts) - 1 if self._order is None else len(self._order)

    @overload
    def __getitem__(self, place: int) -> Example: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Example, ...]: ...
    def __getitem__(self, place: int | slice) -> Example | tuple[Example, ...]:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        with self.path.open("rb") as file:
            return self._read(file, place % len(self))

    def __iter__(self) -> Iterator[Example]:
        if not len(self):
            return
        with self.path.open("rb") as file:
            if self._order is None:
                yield from (Example.from_json(json.loads(line)) for line in file)
            else:
                yield from (self._read(file, place) for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def _read(self, file: BinaryIO, place: int) -> Example:
        number = place if self._order is None else int(self._order[place])
        start, end = int(self._starts[number]), int(self._starts[number + 1])
        file.seek(start)
        return Example.from_json(json.loads(file.read(end - start)))


def _line_starts(path: Path) -> Array:
    """Where each line of a file begins, and where the last one ends, in bytes."""
    if not path.exists():
        return np.zeros(1, np.int64)
    starts = [np.zeros(1, np.int64)]
    done = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            starts.append(ends + (done + 1))
            done += len(block)
    return np.concatenate(starts)
