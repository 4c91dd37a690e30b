"""Files -> the rows of a round: clean, without duplicates, split into taught and held out."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.data import exact, mixing
from llama_factory.data.cleaning import RowStep, SetStep
from llama_factory.data.conflicts import Conflict
from llama_factory.data.intake import Sample, Taken, Tally, file_name, take
from llama_factory.data.reading import Refused
from llama_factory.data.review.case_book import read_book
from llama_factory.data.rows import RowFile
from llama_factory.data.seen import HELD_OUT, TRAIN, Seen, columns_folder, rows_file
from llama_factory.data.settings import DataSettings
from llama_factory.data.sorting import Sorting
from llama_factory.data.sources.files import DataSource
from llama_factory.data.table import Array, RowTable

MOST_SHOWN = 200
"""Refused rows that a report lists; all of them are in the folder's `refused.jsonl`."""
MOST_UNREAD_SHOWN = 8
UNREAD_REMEDY = (
    "To teach one, call a question `instruction`, what it is about `input`, an answer `output`; or "
    "name them under `columns` in dataset_info.json."
)
REPORT, REFUSED, ORDER, JOINED = "report.json", "refused.jsonl", "order.npy", ".joined"


@dataclass(frozen=True)
class SetReport:
    """What became of one set of rows.

    Attributes:
        name: its group.
        file: where it came from.
        num_rows: rows read.
        num_kept: rows to teach or to test.
        num_refused: rows that could not be read.
        dropped: rows left out by the steps that look at single rows, by reason.
        unread: rows that hold something in a field that nothing reads, by field.
    """

    name: str
    file: str
    num_rows: int
    num_kept: int
    num_refused: int
    dropped: dict[str, int]
    unread: dict[str, int] = field(default_factory=dict)

    @property
    def num_dropped(self) -> int:
        """Rows left out although they are rows."""
        return self.num_rows - self.num_kept - self.num_refused

    @property
    def told_unread(self) -> str:
        """What to say of the fields that nothing reads; empty where there are none."""
        ranked = sorted(self.unread.items(), key=lambda each: -each[1])
        named = [f"'{name}' ({count} rows)" for name, count in ranked[:MOST_UNREAD_SHOWN]]
        more = len(ranked) - len(named)
        named += [f"{more} more"] if more else []
        return f"{self.file}: nothing reads {', '.join(named)}. {UNREAD_REMEDY}" if named else ""


@dataclass(frozen=True)
class DataReport:
    """What became of every row and file.

    Attributes:
        sets: each file or named set on its own.
        kept: rows to teach, by group.
        held_out: rows to test, by group.
        dropped: rows left out although they are rows, by reason.
        changed: rows changed, by cleaning step.
        num_refused: rows and files that could not be read as rows.
        refused: the first of them, each with its reason.
        samples: a few examples of every change and of every reason to drop.
        corrected: keys of rows taught before whose answer this round corrects.
        retired: keys of rows held out before whose answer this round corrects.
        fingerprint: identifies the rows and their order.
    """

    sets: tuple[SetReport, ...]
    kept: dict[str, int]
    held_out: dict[str, int]
    dropped: dict[str, int]
    changed: dict[str, int] = field(default_factory=dict)
    num_refused: int = 0
    refused: tuple[Refused, ...] = ()
    samples: tuple[Sample, ...] = ()
    corrected: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def told_unread(self) -> list[str]:
        """What to say of the fields that nothing reads, set by set."""
        return [each.told_unread for each in self.sets if each.unread]

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json; refused rows without their text."""
        refused = [{"file": r.file, "line": r.line, "reason": r.reason} for r in self.refused]
        return asdict(self) | {"refused": refused}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "DataReport":
        """The inverse of `to_json`."""
        refused = tuple(Refused(**row) for row in values["refused"])
        samples = tuple(Sample(**sample) for sample in values["samples"])
        sets = tuple(SetReport(**each) for each in values["sets"])
        parts: dict[str, Any] = {"sets": sets, "refused": refused, "samples": samples}
        keys = {name: tuple(values.get(name, ())) for name in ("corrected", "retired")}
        return DataReport(**values | parts | keys)


@dataclass(frozen=True)
class DataFolders:
    """Where preparing rows writes, and what it knows.

    Attributes:
        output: gets the rows and the report.
        cache: what files came to before; only new ones are read.
        review: what people decided about conflicts; None where nobody is asked.
    """

    output: Path
    cache: Path
    review: Path | None = None


@dataclass(frozen=True)
class PreparedData:
    """The rows of one round, in a folder.

    Attributes:
        folder: `train.jsonl`, `held_out.jsonl`, their columns, `report.json`.
        report: what became of every row.
        conflicts: rows with the same question and different answers, settled or waiting.
    """

    folder: Path
    report: DataReport
    conflicts: tuple[Conflict, ...] = ()

    @cached_property
    def train(self) -> Sequence[Example]:
        """Rows to teach."""
        path = self.folder / ORDER
        order = np.load(path, allow_pickle=False) if path.exists() else None
        return RowFile(rows_file(self.folder, TRAIN), order)

    @cached_property
    def held_out(self) -> tuple[Example, ...]:
        """Rows to test, never taught."""
        return load_rows(rows_file(self.folder, HELD_OUT))

    def refused(self) -> Iterator[Refused]:
        """Everything that could not be read as a row, with its text."""
        return (Refused(**row) for row in files.read_jsonl(self.folder / REFUSED))


def prepare(
    sources: Sequence[DataSource],
    seen: Seen,
    settings: DataSettings,
    folders: DataFolders,
    *,
    progress: Progress,
) -> PreparedData:
    """Read and clean sources and decide what each row is for.

    What was taught before, or is held out for testing, is dropped and counted; bad rows and
    unreadable files are set aside with their reasons and the rest goes on.

    Args:
        sources: sets of rows; those marked as tests are only tested.
        seen: what the lineage was taught and tested on.
        settings: cleaning steps, split, mix.
        folders: where to write, and what is known.
        progress: shows what is done.
    """
    ordered = sorted(sources, key=lambda source: not source.is_test)
    row_steps = [step for step in settings.cleaning if isinstance(step, RowStep)]
    taken = take(
        ordered, row_steps, folders.cache, num_workers=settings.num_workers, progress=progress
    )
    whole = [each for each in taken if isinstance(each, Taken)]
    sorting = _start(whole, seen, folders)
    _compare(sorting, settings, progress)
    order = mixing.select(sorting, whole, settings.mix)
    data = _write(taken, sorting, order, folders.output)
    shutil.rmtree(folders.output / JOINED, ignore_errors=True)
    return data


def _start(taken: Sequence[Taken], seen: Seen, folders: DataFolders) -> Sorting:
    """Every row in one table."""
    parts = [part for each in taken for part in each.parts]
    table = RowTable(parts).joined(folders.output / JOINED)
    marks = [np.full(len(RowTable(each.parts)), each.source.is_test) for each in taken]
    is_test = np.concatenate([np.empty(0, np.bool_), *marks])
    book = read_book(folders.review) if folders.review else None
    sorting = Sorting(table, seen, is_test, book=book, cache=folders.cache)
    for each in taken:
        sorting.tally.add(each.tally)
    return sorting


def _compare(sorting: Sorting, settings: DataSettings, progress: Progress) -> None:
    """Take out the rows that are not to be taught or tested."""
    steps = [step for step in settings.cleaning if isinstance(step, SetStep)]
    with progress.bar("comparing rows", len(steps) + 1) as bar:
        for step in steps:
            step.look_ahead(sorting)
        exact.drop_known(sorting)
        exact.split(sorting, settings.held_out_fraction, by_answer=settings.held_out_by == "answer")
        bar.advance()
        for step in steps:
            step.compare(sorting)
            bar.advance()


def _write(
    taken: Sequence[Taken | Refused], sorting: Sorting, order: Array | None, folder: Path
) -> PreparedData:
    folder.mkdir(parents=True, exist_ok=True)
    sides = {TRAIN: sorting.is_in & ~sorting.is_test, HELD_OUT: sorting.is_in & sorting.is_test}
    for side, keep in sides.items():
        files.write_lines(rows_file(folder, side), sorting.table.lines(keep))
        sorting.table.write_columns(keep, columns_folder(folder, side))
    if order is not None:
        np.save(folder / ORDER, order, allow_pickle=False)
    refused = chain.from_iterable(
        each.refused_rows() if isinstance(each, Taken) else (each,) for each in taken
    )
    files.write_jsonl(folder / REFUSED, map(asdict, refused))
    report = _report(taken, sorting, order, folder)
    files.write_json(folder / REPORT, report.to_json())
    return PreparedData(folder, report, tuple(sorting.conflicts))


def _report(
    taken: Sequence[Taken | Refused], sorting: Sorting, order: Array | None, folder: Path
) -> DataReport:
    tally: Tally = sorting.tally
    refused_files = sum(isinstance(each, Refused) for each in taken)
    shown = [Refused(**row | {"text": ""}) for row in _first_rows(folder / REFUSED)]
    dropped: Counter[str] = Counter()
    for (_, reason), count in tally.dropped.items():
        dropped[reason] += count
    return DataReport(
        sets=tuple(_sets(taken, sorting)),
        kept=_by_group(sorting, sorting.train),
        held_out=_by_group(sorting, sorting.test),
        dropped=dict(dropped),
        changed=dict(tally.changed),
        num_refused=tally.num_refused + refused_files,
        refused=tuple(shown),
        samples=tuple(tally.samples),
        corrected=tuple(sorted(sorting.corrected)),
        retired=tuple(sorted(sorting.retired)),
        fingerprint=_fingerprint(sorting, order),
    )


def _sets(taken: Sequence[Taken | Refused], sorting: Sorting) -> Iterator[SetReport]:
    start = 0
    for each in taken:
        if isinstance(each, Refused):
            continue
        end = start + len(RowTable(each.parts))
        num_kept = int(sorting.is_in[start:end].sum())
        tally, name = each.tally, file_name(each.source)
        dropped = {reason: count for (_, reason), count in tally.dropped.items()}
        counts = (tally.num_rows, num_kept, tally.num_refused)
        yield SetReport(each.source.name, name, *counts, dropped, dict(tally.unread))
        start = end


def _first_rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for row, _ in zip(files.read_jsonl(path), range(MOST_SHOWN), strict=False))


def _by_group(sorting: Sorting, rows: Array) -> dict[str, int]:
    groups, counts = np.unique(sorting.table.column("group")[rows], return_counts=True)
    names = (sorting.table.groups[number] for number in groups.tolist())
    return dict(zip(names, counts.tolist(), strict=True))


def _fingerprint(sorting: Sorting, order: Array | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    keys = sorting.table.column("key")
    digest.update(keys[sorting.train].tobytes())
    digest.update(keys[sorting.test].tobytes())
    digest.update(b"" if order is None else order.tobytes())
    return digest.hexdigest()


def load(folder: Path) -> PreparedData:
    """The rows that `prepare` wrote into a folder."""
    return PreparedData(folder, DataReport.from_json(files.read_json(folder / REPORT)))


def load_rows(path: Path) -> tuple[Example, ...]:
    """The rows of one file that `prepare` wrote."""
    return tuple(map(Example.from_json, files.read_jsonl(path)))
