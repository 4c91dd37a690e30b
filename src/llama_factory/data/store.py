"""Rows on disk: JSON lines, and beside them one array a column (see `row_columns.py`).

A table of a million rows costs memory only for the columns being looked at. A source becomes parts,
written as its rows are read; the columns of all parts are then joined, a file for each column.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np

from llama_factory.core import files
from llama_factory.core.types import Example
from llama_factory.data.row_columns import COLUMNS, Array, Fragment, numbers_of
from llama_factory.text import signatures

ROWS = "rows.jsonl"
ABOUT = "about.json"
PART_COLUMNS = "columns.npy"
"""All columns of a part row by row: one file to open."""
PIECE_ROWS = 1 << 16
"""Rows whose columns are copied at once."""


def write_part(folder: Path, fragments: Sequence[Fragment]) -> None:
    """Write fragments one after another into a new folder as one part."""
    folder.mkdir(parents=True)
    groups = tuple(dict.fromkeys(group for each in fragments for group in each.groups))
    with (folder / ROWS).open("wb") as file:
        file.writelines(each.lines for each in fragments)
    columns = [_renumbered(each.columns, each.groups, groups) for each in fragments]
    together = np.concatenate([np.empty(0, COLUMNS), *columns])
    np.save(folder / PART_COLUMNS, together, allow_pickle=False)
    _write_about(folder, len(together), groups)


def join_parts(parts: Sequence[Path], folder: Path) -> "RowTable":
    """The rows of all parts as one table, whose columns are written into a folder."""
    about = [files.read_json(part / ABOUT) for part in parts]
    groups = tuple(dict.fromkeys(group for each in about for group in each["groups"]))
    pieces = (
        _renumbered(_load_part(part), each["groups"], groups)
        for part, each in zip(parts, about, strict=True)
    )
    write_columns(folder, sum(each["rows"] for each in about), groups, pieces)
    rows = [(part / ROWS, each["rows"]) for part, each in zip(parts, about, strict=True)]
    return RowTable(folder, rows)


def write_columns(
    folder: Path, num_rows: int, groups: Sequence[str], pieces: Iterable[Array]
) -> None:
    """Write columns, a file for each.

    Args:
        folder: gets `NAME.npy` for each column and `about.json`.
        num_rows: rows of all pieces together.
        groups: the names that the column `group` numbers.
        pieces: [rows] of the type `COLUMNS`, one after another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        opened = {n: stack.enter_context((folder / f"{n}.npy").open("wb")) for n in _NAMES}
        begins = {name: _write_header(opened[name], name, num_rows) for name in _NAMES}
        start = 0
        for piece in pieces:
            for name, file in opened.items():
                for band, values in enumerate(np.atleast_2d(piece[name].T)):
                    place = band * num_rows + start
                    file.seek(begins[name] + place * values.itemsize)
                    file.write(values.tobytes())
            start += len(piece)
    _write_about(folder, num_rows, groups)


_NAMES = tuple(COLUMNS.names or ())


def _write_header(file: BinaryIO, name: str, num_rows: int) -> int:
    """Begin the file of a column, of bands as [bands, rows]; returns where its values begin."""
    kind = COLUMNS[name]
    shape = (*kind.shape, num_rows)
    about = {"descr": kind.base.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, about)
    return file.tell()


def _write_about(folder: Path, num_rows: int, groups: Sequence[str]) -> None:
    about = {"rows": num_rows, "groups": list(groups), "signatures": signatures.version()}
    (folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")


def _load_part(part: Path) -> Array:
    """A part's columns; those of older programs count groups in two bytes."""
    return np.asarray(np.load(part / PART_COLUMNS, allow_pickle=False)).astype(COLUMNS)


def _renumbered(columns: Array, names: Sequence[str], groups: Sequence[str]) -> Array:
    """Columns whose groups are numbered in `groups` in place of `names`."""
    columns = columns.copy()
    columns["group"] = numbers_of(names, groups)[columns["group"]]
    return columns


class RowTable:
    """Rows in one or more files, numbered through, and their columns.

    Args:
        columns: folder of the columns as `write_columns` makes it; None for no rows.
        rows: each file of rows, and how many rows it holds.
    """

    def __init__(self, columns: Path | None, rows: Sequence[tuple[Path, int]]) -> None:
        self.columns = columns
        self._files = [path for path, _ in rows]
        self._starts = [0, *accumulate(count for _, count in rows)]
        self._known_offsets: dict[int, Array] = {}

    @staticmethod
    def open(columns: Path, rows: Path) -> "RowTable":
        """The rows of one file; it may be missing, where only their columns are kept."""
        return RowTable(columns, [(rows, files.read_json(columns / ABOUT)["rows"])])

    @staticmethod
    def empty() -> "RowTable":
        """A table without rows."""
        return RowTable(None, [])

    def __len__(self) -> int:
        return self._starts[-1]

    @cached_property
    def has_rows(self) -> bool:
        """Whether the rows themselves are kept, and not their columns alone."""
        return all(path.exists() for path in self._files)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The names that the column `group` numbers."""
        return tuple(files.read_json(self.columns / ABOUT)["groups"]) if self.columns else ()

    @cached_property
    def keys(self) -> Array:
        """The content hash of every row."""
        return self.column("key")

    def column(self, name: str, band: int | None = None) -> Array:
        """One column of all rows, read from disk; of a column of bands, only that band."""
        values = self._mapped(name)
        return np.array(values if band is None else values[band])

    def row(self, number: int) -> Example:
        """One row, read from disk."""
        part = int(np.searchsorted(self._starts, number, side="right")) - 1
        offsets, place = self._offsets(part), number - self._starts[part]
        with self._files[part].open("rb") as file:
            file.seek(int(offsets[place]))
            return Example.from_json(
                json.loads(file.read(int(offsets[place + 1] - offsets[place])))
            )

    def lines(self, keep: Array) -> Iterator[bytes]:
        """The JSON lines of the rows that the mask `keep` names, in order; some come together."""
        for part, path in enumerate(self._files):
            wanted = keep[self._starts[part] : self._starts[part + 1]].astype(np.int8)
            if not wanted.any():
                continue
            edges = np.flatnonzero(np.diff(np.concatenate([[0], wanted, [0]])))
            offsets = self._offsets(part)[edges].tolist()
            with path.open("rb") as file:
                for start, end in zip(offsets[::2], offsets[1::2], strict=True):
                    file.seek(start)
                    yield file.read(end - start)

    def write_columns(self, keep: Array, folder: Path) -> None:
        """Write the columns of the rows that the mask `keep` names into a folder of their own."""
        pieces = (self._piece(keep, start) for start in range(0, len(self), PIECE_ROWS))
        write_columns(folder, int(keep.sum()), self.groups, pieces)

    def _piece(self, keep: Array, start: int) -> Array:
        """The columns of some rows, those that are kept."""
        rows = slice(start, start + PIECE_ROWS)
        piece = np.empty(int(keep[rows].sum()), COLUMNS)
        for name in _NAMES:
            piece[name] = self._mapped(name)[..., rows][..., keep[rows]].T
        return piece

    def _mapped(self, name: str) -> Array:
        """A column on disk: [rows], or [bands, rows]."""
        if self.columns is None:
            return np.empty((*COLUMNS[name].shape, 0), COLUMNS[name].base)
        path = self.columns / f"{name}.npy"
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))

    def _offsets(self, part: int) -> Array:
        """Where the rows of a file begin, and where the last one ends, in bytes."""
        if part not in self._known_offsets:
            sizes = self._mapped("size")[self._starts[part] : self._starts[part + 1]]
            self._known_offsets[part] = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return self._known_offsets[part]


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
