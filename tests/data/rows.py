"""Rows, tables and prepared data for tests of the data layer."""

import json
from pathlib import Path

import numpy as np

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.data.cleaning import SetStep
from llama_factory.data.prepare import DataFolders, PreparedData, prepare
from llama_factory.data.row_columns import make_fragment
from llama_factory.data.seen import Seen
from llama_factory.data.selection import History, Selection
from llama_factory.data.settings import DataSettings
from llama_factory.data.sources.files import source_of
from llama_factory.data.store import RowTable, as_batch, write_columns
from llama_factory.text import signatures

LONG_QUESTION = "What should a customer do when the parcel has arrived with a torn wrapping?"
LONG_ANSWER = "Take pictures of the wrapping, refuse the parcel, and write to us on the same day."


def chat(question: str, answer: str, *, group: str = "faq", line: int = 1, **more) -> Example:
    turns = (Message("user", question), Message("assistant", answer))
    return Example(turns, group, f"{group}.jsonl", line, **more)


def table_of(folder: Path, rows: list[Example]) -> RowTable:
    """A table of rows in a new folder; rows are numbered in the order given."""
    fragment = make_fragment(rows)
    write_columns(folder, fragment.groups, [as_batch(fragment.columns)])
    (folder / "rows.jsonl").write_bytes(fragment.lines)
    return RowTable.open(folder, folder / "rows.jsonl")


def as_numpy_files(folder: Path, rows: list[Example]) -> None:
    """The columns of rows as earlier versions of the program kept them."""
    fragment = make_fragment(rows)
    folder.mkdir(parents=True)
    for name in fragment.columns.dtype.names:
        np.save(folder / f"{name}.npy", np.ascontiguousarray(fragment.columns[name].T))
    about = {"rows": len(rows), "groups": fragment.groups, "signatures": signatures.version()}
    (folder / "about.json").write_text(json.dumps(about))


def selection_of(folder: Path, rows: list[Example], test: set[int] = frozenset()) -> Selection:
    is_test = np.array([number in test for number in range(len(rows))])
    return Selection.of(table_of(folder, rows), is_test)


def after(step: SetStep, rows: Selection) -> Selection:
    """The rows that a step leaves."""
    return rows.without(*(each.rows for each in step.compare(rows, History()).removals))


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def prepared(
    folder: Path, *paths: Path, seen: Seen = (), review: Path | None = None, **settings
) -> PreparedData:
    """Files as a round takes them, in `folder`; one process unless `num_workers` says otherwise."""
    chosen = DataSettings.model_validate({"num_workers": 1, "held_out_fraction": 0, **settings})
    sources = [source_of(path) for path in paths]
    folders = DataFolders(folder / "data", folder / "cache", review)
    return prepare(sources, chosen, folders, seen=seen, progress=SILENT)
