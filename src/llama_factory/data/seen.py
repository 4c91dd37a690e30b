"""What a lineage was taught and tested on: the tables that its versions keep of their rows."""

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from llama_factory.core import files
from llama_factory.core.types import Example
from llama_factory.data.row_columns import Array, hash_of, make_fragment
from llama_factory.data.store import RowTable, as_batch, convert_arrays, write_columns
from llama_factory.text import signatures

TRAIN, HELD_OUT = "train", "held_out"


@dataclass(frozen=True)
class SeenRows:
    """The rows of one version.

    Attributes:
        version: its id.
        taught: rows it was taught.
        tested: rows that were held out.
        retired: keys of those whose answers later versions corrected.
    """

    version: str
    taught: RowTable
    tested: RowTable
    retired: frozenset[str] = frozenset()

    @cached_property
    def taught_texts(self) -> RowTable:
        """The rows it was taught, to be read; none where only their hashes were kept."""
        return self.taught if self.taught.has_rows else RowTable.empty()

    @cached_property
    def asked(self) -> Array:
        """Numbers of the held-out rows that models are still tested on."""
        keys = np.array([hash_of(key) for key in self.retired], np.uint64)
        return np.flatnonzero(~np.isin(self.tested.column("key"), keys))


Seen = tuple[SeenRows, ...]
"""What a lineage knows already, oldest version first."""


def rows_file(folder: Path, side: str) -> Path:
    """Where a data folder keeps the rows of one side."""
    return folder / f"{side}.jsonl"


def columns_folder(folder: Path, side: str) -> Path:
    """Where a data folder keeps their columns."""
    return folder / "columns" / side


def open_seen(
    folders: Mapping[str, Path], cache: Path, retired: Mapping[str, frozenset[str]] | None = None
) -> Seen:
    """The rows of versions.

    Args:
        folders: data folder of each version as `prepare` wrote it, by version id, oldest first.
        cache: columns that a version lacks (or that were made by another program version) go here.
        retired: keys of held-out rows that are not asked any more, by version id.
    """
    gone = retired or {}
    opened = (
        _open(version, folder, cache, gone.get(version, frozenset()))
        for version, folder in folders.items()
    )
    return tuple(opened)


def _open(version: str, folder: Path, cache: Path, retired: frozenset[str]) -> SeenRows:
    taught, tested = (
        _side(folder, side, cache / "columns" / version / side) for side in (TRAIN, HELD_OUT)
    )
    return SeenRows(version, taught, tested, retired)


def _side(folder: Path, side: str, spare: Path) -> RowTable:
    rows, columns = rows_file(folder, side), columns_folder(folder, side)
    known = [_opened(each, rows) for each in (columns, spare)]
    for table in known:
        if table is not None and table.signatures == signatures.version():
            return table
    if (columns / "key.npy").exists() and known[1] is None:
        _replace(spare, lambda made: convert_arrays(columns, made))
        return _side(folder, side, spare)
    if not rows.exists():  # of another program version, but hashes of whole texts are the same
        return next((table for table in known if table is not None), RowTable.empty())
    _replace(spare, lambda made: _compute_columns(rows, made))
    return RowTable.open(spare, rows)


def _opened(columns: Path, rows: Path) -> RowTable | None:
    """The table of a folder of columns; None where there are none, or not whole."""
    try:
        return RowTable.open(columns, rows)
    except (pa.ArrowInvalid, OSError):
        return None


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder anew; where another process has done so meanwhile, its one stays."""
    aside = files.temporary_beside(folder)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside)
    temporary = files.temporary_beside(folder)
    write(temporary)
    files.settle(temporary, folder)


def _compute_columns(rows: Path, folder: Path) -> None:
    made = make_fragment([Example.from_json(row) for row in files.read_jsonl(rows)])
    write_columns(folder, made.groups, [as_batch(made.columns)])
