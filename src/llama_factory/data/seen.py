"""What a lineage was taught and tested on: the tables that its versions keep of their rows."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from llama_factory.core import files
from llama_factory.core.types import Example
from llama_factory.data.row_columns import Array, hash_of, make_fragment
from llama_factory.data.store import ABOUT, RowTable, write_columns
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
    for each in (columns, spare):
        if _fits(each):
            return RowTable.open(each, rows)
    if not rows.exists():  # of another program version, but hashes of whole texts are the same
        return RowTable.open(columns, rows) if (columns / ABOUT).exists() else RowTable.empty()
    if spare.exists():  # of another program version
        aside = files.temporary_beside(spare)
        spare.rename(aside)
        shutil.rmtree(aside)
    _make_columns(rows, spare)
    return RowTable.open(spare, rows)


def _fits(columns: Path) -> bool:
    path = columns / ABOUT
    is_whole = path.exists() and (columns / "key.npy").exists()
    return is_whole and files.read_json(path)["signatures"] == signatures.version()


def _make_columns(rows: Path, folder: Path) -> None:
    """Compute the columns of a file of rows; where another process has done so, its ones stay."""
    made = make_fragment([Example.from_json(row) for row in files.read_jsonl(rows)])
    temporary = files.temporary_beside(folder)
    write_columns(temporary, len(made.columns), made.groups, [made.columns])
    files.settle(temporary, folder)
