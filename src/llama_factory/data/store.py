"""Rows on disk: JSON lines, and beside them an Arrow file of their columns (see `row_columns.py`).

A table of a million rows costs memory only for the columns being looked at: the file is mapped into
memory. A source becomes parts, written as its rows are read, and parts are joined to one table.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np
import pyarrow as pa

from llama_factory.core import files
from llama_factory.core.types import Example
from llama_factory.data.row_columns import COLUMNS, Array, Fragment, numbers_of
from llama_factory.text import signatures

ROWS = "rows.jsonl"
COLUMNS_FILE = "columns.arrow"
PIECE_ROWS = 1 << 16
"""Rows whose columns are copied at once."""


def write_part(folder: Path, fragments: Sequence[Fragment]) -> None:
    """Write fragments one after another into a new folder as one part."""
    folder.mkdir(parents=True)
    groups = tuple(dict.fromkeys(group for each in fragments for group in each.groups))
    with (folder / ROWS).open("wb") as file:
        file.writelines(each.lines for each in fragments)
    batches = [_renumbered(as_batch(each.columns), each.groups, groups) for each in fragments]
    together = pa.Table.from_batches(batches, SCHEMA).combine_chunks()
    write_columns(folder, groups, together.to_batches())


def join_parts(parts: Sequence[Path], folder: Path) -> "RowTable":
    """The rows of all parts as one table, whose columns are written into a folder."""
    tables = [RowTable.open(part, part / ROWS) for part in parts]
    groups = tuple(dict.fromkeys(group for table in tables for group in table.groups))
    batches = (
        _renumbered(batch, table.groups, groups) for table in tables for batch in table.batches()
    )
    write_columns(folder, groups, batches)
    return RowTable(folder, [(part / ROWS, len(t)) for part, t in zip(parts, tables, strict=True)])


def write_columns(
    folder: Path,
    groups: Sequence[str],
    batches: Iterable[pa.RecordBatch],
    *,
    version: str | None = None,
) -> None:
    """Write columns as one Arrow file into a folder; one that is cut off cannot be opened.

    Args:
        folder: gets the file.
        groups: the names that the column `group` numbers.
        batches: rows with the columns of `SCHEMA`, one after another.
        version: of the signatures in them; None for the present one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {"groups": json.dumps(groups), "signatures": version or signatures.version()}
    with (
        (folder / COLUMNS_FILE).open("wb") as file,
        pa.ipc.new_file(file, SCHEMA.with_metadata(about)) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)


def _banded(name: str) -> list[str]:
    """The columns of the file that one of `COLUMNS` becomes: one for each band, if it has bands."""
    return [f"{name}.{n}" for n in range(COLUMNS[name].shape[0])] if COLUMNS[name].shape else [name]


_NAMES = {name: _banded(name) for name in COLUMNS.names or ()}
SCHEMA = pa.schema(
    [
        (column, pa.from_numpy_dtype(COLUMNS[name].base))
        for name, columns in _NAMES.items()
        for column in columns
    ]
)
"""Columns of the file; of one with bands, such as `bands`, a column for each: `bands.0` ..."""


def as_batch(columns: Array) -> pa.RecordBatch:
    """Columns [rows] of the type `COLUMNS` as Arrow has them."""
    arrays = [
        pa.array(np.ascontiguousarray(values))
        for name in _NAMES
        for values in (columns[name].T if COLUMNS[name].shape else [columns[name]])
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _renumbered(
    batch: pa.RecordBatch, names: Sequence[str], groups: Sequence[str]
) -> pa.RecordBatch:
    """Columns whose groups are numbered in `groups` in place of `names`."""
    numbers = pa.array(numbers_of(names, groups)).take(batch["group"])
    return batch.set_column(SCHEMA.get_field_index("group"), SCHEMA.field("group"), numbers)


def convert_arrays(old: Path, folder: Path) -> None:
    """Write columns as this program keeps them from a folder of NumPy files, as it once did.

    Args:
        old: `about.json`, and `NAME.npy` for each column.
        folder: gets the Arrow file.
    """
    about = files.read_json(old / "about.json")
    columns = np.empty(about["rows"], COLUMNS)
    for name in _NAMES:
        columns[name] = np.load(old / f"{name}.npy", allow_pickle=False).T
    write_columns(folder, about["groups"], [as_batch(columns)], version=about["signatures"])


class RowTable:
    """Rows in one or more files, numbered through, and their columns.

    Args:
        columns: folder of the columns as `write_columns` fills it; None for no rows.
        rows: each file of rows, and how many rows it holds.
    """

    def __init__(self, columns: Path | None, rows: Sequence[tuple[Path, int]]) -> None:
        self.columns = columns
        self._files = [path for path, _ in rows]
        self._starts = [0, *accumulate(count for _, count in rows)]
        self._known_offsets: dict[int, Array] = {}

    @staticmethod
    def open(columns: Path, rows: Path) -> "RowTable":
        """The rows of one file; it may be missing, where only their columns are kept.

        Raises:
            pa.ArrowInvalid, OSError: there are no whole columns in the folder.
        """
        table = RowTable(columns, [])
        table._files, table._starts = [rows], [0, table._columns.num_rows]
        return table

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
    def _columns(self) -> pa.Table:
        """The file of columns, mapped into memory."""
        if self.columns is None:
            return SCHEMA.empty_table()
        return pa.ipc.open_file(pa.memory_map(str(self.columns / COLUMNS_FILE))).read_all()

    @property
    def groups(self) -> tuple[str, ...]:
        """The names that the column `group` numbers."""
        about = self._columns.schema.metadata or {}
        return tuple(json.loads(about.get(b"groups", b"[]")))

    @property
    def signatures(self) -> str:
        """Which signatures the columns hold; those of other versions are not comparable."""
        return (self._columns.schema.metadata or {}).get(b"signatures", b"").decode()

    @cached_property
    def keys(self) -> Array:
        """The content hash of every row."""
        return self.column("key")

    def column(self, name: str, band: int | None = None) -> Array:
        """One column of all rows: [rows]; of one with bands [bands, rows], or the band named."""
        names = _NAMES[name] if band is None else [_NAMES[name][band]]
        values = [self._columns[each].to_numpy() for each in names]
        return np.array(values if len(_NAMES[name]) > 1 and band is None else values[0])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All columns, some rows at a time."""
        yield from self._columns.to_batches(max_chunksize=PIECE_ROWS)

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
        write_columns(folder, self.groups, self._kept(keep))

    def _kept(self, keep: Array) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in self.batches():
            yield batch.filter(pa.array(keep[start : start + len(batch)]))
            start += len(batch)

    def _offsets(self, part: int) -> Array:
        """Where the rows of a file begin, and where the last one ends, in bytes."""
        if part not in self._known_offsets:
            sizes = self.column("size")[self._starts[part] : self._starts[part + 1]]
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
