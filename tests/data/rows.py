"""Rows, tables and prepared data for tests of the data layer."""

import json
from pathlib import Path

from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example, Message
from llama_factory.data.prepare import DataFolders, PreparedData, prepare
from llama_factory.data.seen import Seen
from llama_factory.data.settings import DataSettings
from llama_factory.data.sorting import Sorting
from llama_factory.data.sources.files import source_of
from llama_factory.data.table import Part, RowTable, make_fragment, write_part

LONG_QUESTION = "What should a customer do when the parcel has arrived with a torn wrapping?"
LONG_ANSWER = "Take pictures of the wrapping, refuse the parcel, and write to us on the same day."


def chat(question: str, answer: str, *, group: str = "faq", line: int = 1, **more) -> Example:
    turns = (Message("user", question), Message("assistant", answer))
    return Example(turns, group, f"{group}.jsonl", line, **more)


def table_of(folder: Path, rows: list[Example]) -> RowTable:
    """A table of rows in a new folder; rows are numbered in the order given."""
    write_part(folder, [make_fragment(rows)])
    return RowTable([Part.of(folder)])


def sorting_of(
    folder: Path, rows: list[Example], test: set[int] = frozenset(), seen=None
) -> Sorting:
    import numpy as np

    table = table_of(folder, rows)
    return Sorting(table, seen or Seen(), np.array([number in test for number in range(len(rows))]))


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def prepared(
    folder: Path, *paths: Path, seen: Seen | None = None, review: Path | None = None, **settings
) -> PreparedData:
    """Files as a round takes them, in `folder`; one process unless `num_workers` says otherwise."""
    chosen = DataSettings.model_validate({"num_workers": 1, "held_out_fraction": 0, **settings})
    sources = [source_of(path) for path in paths]
    folders = DataFolders(folder / "data", folder / "cache", review)
    return prepare(sources, seen or Seen(), chosen, folders, progress=SILENT)
