"""Files -> the rows of a round: clean, without duplicates, split into taught and held out."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path

import numpy as np

from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example
from llama_factory.data.cleaning import CLEANERS, RowStep, SetStep
from llama_factory.data.cleaning_report import MAX_SAMPLES, CleaningCounts, DataReport, SetReport
from llama_factory.data.conflict_rules import Conflict
from llama_factory.data.intake import CleanSource, clean_sources, file_name
from llama_factory.data.mixing import mixed
from llama_factory.data.reading import Refused
from llama_factory.data.review.case_book import read_book
from llama_factory.data.row_columns import Array
from llama_factory.data.seen import HELD_OUT, TRAIN, Seen, columns_folder, rows_file
from llama_factory.data.selection import (
    Findings,
    History,
    Removal,
    Selection,
    forgotten_rows,
    known_rows,
    split,
    tested_questions,
)
from llama_factory.data.settings import DataSettings
from llama_factory.data.sources.files import DataSource
from llama_factory.data.store import RowFile, RowTable, join_parts

LEFT_OUT_BY_MIX = kind_of_sentence("data.left_out_by_mix", "left out by data.mix")
BEYOND_MAX_SAMPLES = kind_of_sentence(
    "data.beyond_max_samples", "beyond data.mix.max_samples of a set to test"
)

MAX_REFUSED = 200
"""Refused rows that a report lists; all of them are in the folder's `refused.jsonl`."""
REPORT, REFUSED, ORDER, JOINED = "report.json", "refused.jsonl", "order.npy", ".joined"


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
        rows = files.read_jsonl(rows_file(self.folder, HELD_OUT))
        return tuple(map(Example.from_json, rows))

    def refused(self) -> Iterator[Refused]:
        """Everything that could not be read as a row, with its text."""
        return (Refused(**row) for row in files.read_jsonl(self.folder / REFUSED))


def prepare(
    sources: Sequence[DataSource],
    settings: DataSettings,
    folders: DataFolders,
    *,
    seen: Seen = (),
    forgotten: Collection[str] = (),
    progress: Progress,
) -> PreparedData:
    """Read and clean sources and decide what each row is for.

    What was taught before, or is held out for testing, is dropped and counted; bad rows and
    unreadable files are set aside with their reasons and the rest goes on.

    Args:
        sources: sets of rows; those marked as tests are only tested.
        settings: cleaning steps, split, mix.
        folders: where to write, and what is known.
        seen: what the lineage was taught and tested on, oldest version first.
        forgotten: keys of rows that are left out whatever file they come in.
        progress: shows what is done.
    """
    ordered = sorted(sources, key=lambda source: not source.is_test)
    row_steps = [step for step in settings.cleaning if isinstance(step, RowStep)]
    read = clean_sources(
        ordered, row_steps, folders.cache, num_workers=settings.num_workers, progress=progress
    )
    clean = [each for each in read if isinstance(each, CleanSource)]
    parts = [part for each in clean for part in each.parts]
    table = join_parts(parts, folders.output / JOINED)
    book = read_book(folders.review) if folders.review else None
    history = History(seen, book, folders.cache, forgotten)
    outcome = _outcome(table, clean, settings, history, progress)
    data = _write(read, outcome, folders.output)
    shutil.rmtree(folders.output / JOINED, ignore_errors=True)
    return data


@dataclass(frozen=True)
class _Outcome:
    """What became of the rows of all sources.

    Attributes:
        rows: which are taught and which held out.
        order: places among the rows to teach, in the order wanted and with repeats; None for all
            of them once, as they are.
        counts: what was changed and dropped.
        findings: of each step that compared rows.
    """

    rows: Selection
    order: Array | None
    counts: CleaningCounts
    findings: tuple[Findings, ...]


def _outcome(
    table: RowTable,
    clean: Sequence[CleanSource],
    settings: DataSettings,
    history: History,
    progress: Progress,
) -> _Outcome:
    counts = CleaningCounts()
    for each in clean:
        counts.add(each.counts)
    sizes = np.array([each.num_rows for each in clean], np.int64)
    is_test, is_taught = (
        np.repeat(np.array([getattr(each.source, flag) for each in clean], np.bool_), sizes)
        for flag in ("is_test", "is_taught")
    )
    rows = Selection.of(table, is_test, is_taught=is_taught)
    rows = _remove(rows, "mix", [_too_many_tests(rows, sizes, settings.mix.max_samples)], counts)
    rows, findings = _compare(rows, settings, history, counts, progress, sizes=sizes)
    order = mixed(table, rows.train, clean, settings.mix)
    left_out = np.setdiff1d(rows.train, order)
    rows = _remove(rows, "mix", [Removal(left_out, LEFT_OUT_BY_MIX())], counts)
    is_plain = np.array_equal(order, rows.train)
    places = None if is_plain else np.searchsorted(rows.train, order)
    return _Outcome(rows, places, counts, findings)


def _too_many_tests(rows: Selection, sizes: Array, most: int | None) -> Removal:
    """Rows to test beyond the first so many of their set."""
    starts = np.repeat(np.cumsum(sizes) - sizes, sizes)
    is_beyond = rows.is_test & (np.arange(len(rows.is_test)) - starts >= (most or np.inf))
    return Removal(np.flatnonzero(is_beyond), BEYOND_MAX_SAMPLES())


def _compare(
    rows: Selection,
    settings: DataSettings,
    history: History,
    counts: CleaningCounts,
    progress: Progress,
    *,
    sizes: Array,
) -> tuple[Selection, tuple[Findings, ...]]:
    """Split the rows and take out those that are not to be taught or tested."""
    steps = [step for step in settings.cleaning if isinstance(step, SetStep)]
    findings = []
    with progress.bar("comparing rows", len(steps) + 1) as bar:
        rows = _remove(rows, "exact", forgotten_rows(rows, history.forgotten), counts)
        corrections = (step.find_corrections(rows.table, history) for step in steps)
        rows = rows.with_corrections(*corrections)
        taught_too = settings.teach_tests
        known = known_rows(rows, history.seen, teaches_tests=taught_too)
        rows = _remove(rows, "exact", known, counts)
        if _holds_out(settings):
            beyond = _beyond(rows, sizes, settings.mix.max_samples)
            rows = _remove(rows, "mix", [Removal(beyond, LEFT_OUT_BY_MIX())], counts)
        by_answer = settings.held_out_by == "answer"
        rows = split(rows, _held_out_fraction(settings, rows), by_answer=by_answer)
        held_out = [] if taught_too else [tested_questions(rows)]
        rows = _remove(rows, "exact", held_out, counts)
        bar.advance()
        for step in steps:
            found = step.compare(rows, history)
            rows = _remove(rows, CLEANERS.name_of(step), found.removals, counts)
            findings.append(found)
            bar.advance()
    return rows, tuple(findings)


def _holds_out(settings: DataSettings) -> bool:
    return bool(settings.held_out_fraction or settings.held_out_rows)


def _beyond(rows: Selection, sizes: Array, most: int | None) -> Array:
    """Rows beyond the first so many of their set that may be taught: none of them is held out."""
    is_open = rows.is_in & ~rows.is_test
    so_far = np.cumsum(is_open)
    before = np.concatenate([[0], so_far])[np.cumsum(sizes) - sizes]
    ranks = so_far - np.repeat(before, sizes)
    return np.flatnonzero(is_open & (ranks > (most or np.inf)))


def _held_out_fraction(settings: DataSettings, rows: Selection) -> float:
    if settings.held_out_rows is None:
        return settings.held_out_fraction
    return min(0.5, settings.held_out_rows / max(1, int(rows.is_in.sum())))


def _remove(
    rows: Selection, step: str, removals: Iterable[Removal], counts: CleaningCounts
) -> Selection:
    """The selection without the rows that a step takes out, which are counted."""
    is_in = rows.is_in.copy()
    for removal in removals:
        left = removal.rows[is_in[removal.rows]]
        if len(left):
            is_in[left] = False
            shown = map(rows.table.row, left[:MAX_SAMPLES].tolist())
            counts.add_dropped(step, removal.reason, len(left), shown)
    return replace(rows, is_in=is_in)


def _write(read: Sequence[CleanSource | Refused], outcome: _Outcome, folder: Path) -> PreparedData:
    folder.mkdir(parents=True, exist_ok=True)
    rows = outcome.rows
    sides = {TRAIN: rows.is_in & ~rows.is_test, HELD_OUT: rows.is_in & rows.is_test}
    for side, keep in sides.items():
        files.write_lines(rows_file(folder, side), rows.table.lines(keep))
        rows.table.write_columns(keep, columns_folder(folder, side))
    if outcome.order is not None:
        np.save(folder / ORDER, outcome.order, allow_pickle=False)
    refused = chain.from_iterable(
        each.refused_rows() if isinstance(each, CleanSource) else (each,) for each in read
    )
    files.write_jsonl(folder / REFUSED, map(asdict, refused))
    report = _report(read, outcome, folder)
    files.write_json(folder / REPORT, report.to_json())
    conflicts = chain.from_iterable(found.conflicts for found in outcome.findings)
    return PreparedData(folder, report, tuple(conflicts))


def _report(read: Sequence[CleanSource | Refused], outcome: _Outcome, folder: Path) -> DataReport:
    counts, rows = outcome.counts, outcome.rows
    first_refused = islice(files.read_jsonl(folder / REFUSED), MAX_REFUSED)
    dropped: Counter[str] = Counter()
    for (_, reason), count in counts.dropped.items():
        dropped[reason] += count
    corrected = {key for found in outcome.findings for key in found.corrected}
    retired = {key for found in outcome.findings for key in found.retired}
    return DataReport(
        sets=tuple(_set_reports(read, rows)),
        kept=_by_group(rows.table, rows.train),
        held_out=_by_group(rows.table, rows.test),
        dropped=dict(dropped),
        changed=dict(counts.changed),
        num_refused=counts.num_refused + sum(isinstance(each, Refused) for each in read),
        refused=tuple(Refused(**row | {"text": ""}) for row in first_refused),
        samples=tuple(counts.samples),
        corrected=tuple(sorted(corrected)),
        retired=tuple(sorted(retired)),
        fingerprint=_fingerprint(rows, outcome.order),
    )


def _set_reports(read: Sequence[CleanSource | Refused], rows: Selection) -> Iterator[SetReport]:
    start = 0
    for each in read:
        if isinstance(each, Refused):
            continue
        end = start + each.num_rows
        counts = each.counts
        yield SetReport(
            each.source.name,
            file_name(each.source),
            counts.num_rows,
            int(rows.is_in[start:end].sum()),
            counts.num_refused,
            {reason: count for (_, reason), count in counts.dropped.items()},
            dict(counts.unread),
        )
        start = end


def _by_group(table: RowTable, rows: Array) -> dict[str, int]:
    groups, counts = np.unique(table.column("group")[rows], return_counts=True)
    names = (table.groups[number] for number in groups.tolist())
    return dict(zip(names, counts.tolist(), strict=True))


def _fingerprint(rows: Selection, order: Array | None) -> str:
    digest = hashlib.blake2b(digest_size=16)
    keys = rows.table.keys
    digest.update(keys[rows.train].tobytes())
    digest.update(keys[rows.test].tobytes())
    digest.update(b"" if order is None else order.tobytes())
    return digest.hexdigest()


def load(folder: Path) -> PreparedData:
    """The rows that `prepare` wrote into a folder."""
    return PreparedData(folder, DataReport.from_json(files.read_json(folder / REPORT)))
