"""Files -> tables of clean rows: read, converted and cleaned in parallel, each file only once.

What a file came to is kept in the cache in parts: a killed run goes on after the last whole part,
and the next round reads only new files.
"""

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from llama_factory.core import files, plugins
from llama_factory.core.errors import DataError
from llama_factory.core.progress import Bar, Progress
from llama_factory.core.types import Example
from llama_factory.data import source_cache
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep
from llama_factory.data.cleaning_report import CleaningCounts
from llama_factory.data.formats.unread import unread_fields
from llama_factory.data.reading import RawRow, Refused, to_example
from llama_factory.data.row_columns import Fragment, make_fragment
from llama_factory.data.source_cache import DONE
from llama_factory.data.sources.files import DataSource, data_files, rows_of
from llama_factory.data.sources.hub import pinned
from llama_factory.data.store import write_part

BATCH_ROWS = 500
"""Rows handed to a process at once."""
PART_ROWS = 20_000
"""Rows in a part of the cache: what a killed run may have to do again."""
BYTES_WORTH_WORKERS = 4_000_000
"""Files smaller than this together are cleaned in this process: starting others takes a second."""
WAITING_PER_WORKER = 2
"""Pieces of work handed out ahead for each process: more would only use memory."""
REFUSED, REPORT = "refused.jsonl", "report.json"


@dataclass(frozen=True)
class CleanSource:
    """What one source came to.

    Attributes:
        source: where the rows came from.
        parts: folders of its clean rows.
        counts: what became of all its rows.
        refused: files of refused rows, as JSON lines.
    """

    source: DataSource
    parts: tuple[Path, ...]
    counts: CleaningCounts
    refused: tuple[Path, ...]

    @property
    def num_rows(self) -> int:
        """Number of clean rows."""
        return self.counts.num_kept

    def refused_rows(self) -> Iterator[Refused]:
        """What could not be read as a row, each with its reason."""
        for path in self.refused:
            yield from (Refused(**row) for row in files.read_jsonl(path))


@dataclass(frozen=True)
class _CleanBatch:
    fragment: Fragment
    refused: list[Refused]
    counts: CleaningCounts


def clean_sources(
    sources: Sequence[DataSource],
    steps: Sequence[RowStep],
    cache: Path,
    *,
    num_workers: int,
    progress: Progress,
) -> list[CleanSource | Refused]:
    """Clean all sources; one that cannot be read comes as `Refused` and the others go on.

    Args:
        sources: in the order wanted; the results come in the same order.
        steps: applied to every row in turn.
        cache: folder of what was done before.
        num_workers: processes; 0 for one a core.
        progress: shows the rows of each file as they are done.
    """
    sources = [_pinned(source, cache, progress) for source in sources]
    folders = [
        None if source.problem else cache / source_cache.fingerprint(source, steps)
        for source in sources
    ]
    source_cache.begin_use(cache, [folder for folder in folders if folder])
    pairs = list(zip(sources, folders, strict=True))
    todo = sum(num_bytes(s) for s, folder in pairs if folder and not (folder / DONE).exists())
    are_ours = all(type(step).__module__ != "__main__" for step in steps)
    with workers(num_workers if todo >= BYTES_WORTH_WORKERS and are_ours else 1) as pool:
        return [_clean_source(source, folder, steps, pool, progress) for source, folder in pairs]


def _pinned(source: DataSource, cache: Path, progress: Progress) -> DataSource:
    """A source whose content is known: a hub's sets may change from one day to the next."""
    if source.hub is None or source.problem:
        return source
    return replace(source, hub=pinned(source.hub, cache, progress.say))


def num_bytes(source: DataSource) -> int:
    """Size of a source, packed or not; a hub's sets count as large."""
    if source.path is None:
        return BYTES_WORTH_WORKERS
    paths = [source.path] if source.path.is_file() else data_files(source.path)
    return sum(path.stat().st_size for path in paths if path.is_file())


def _clean_source(
    source: DataSource,
    folder: Path | None,
    steps: Sequence[RowStep],
    pool: "Workers",
    progress: Progress,
) -> CleanSource | Refused:
    if folder is None:
        return Refused(file_name(source), 0, source.problem)
    try:
        if not (folder / DONE).exists():
            _add_parts(folder, source, steps, pool, progress)
            source_cache.complete(folder, source, steps)
    except DataError as error:
        return Refused(file_name(source), 0, str(error))
    parts = _parts_in(folder)
    refused = tuple(part / REFUSED for part in parts)
    return CleanSource(source, tuple(parts), _counts(parts), refused)


def file_name(source: DataSource) -> str:
    """What the rows of a source name as their file."""
    return source.path.name if source.path is not None else source.name


def _parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def _counts(parts: Iterable[Path]) -> CleaningCounts:
    counts = CleaningCounts()
    for part in parts:
        counts.add(CleaningCounts.from_json(files.read_json(part / REPORT)))
    return counts


def _add_parts(
    folder: Path, source: DataSource, steps: Sequence[RowStep], pool: "Workers", progress: Progress
) -> None:
    """Make the parts of a source that are missing."""
    parts = _parts_in(folder)
    rows = islice(rows_of(source), _counts(parts).num_rows, None)
    cleaned = pool.map(partial(_clean, source=source, steps=tuple(steps)), _batches(rows))
    total = num_bytes(source) // 1000
    with progress.bar(f"reading {file_name(source)} (kB)", total) as bar:
        position = _ReadingBar(bar, total)
        for number, batches in enumerate(_grouped(cleaned, position), len(parts)):
            _write_part(folder / f"part-{number:05d}", batches)
        position.finish()


@dataclass
class _ReadingBar:
    """A bar in kilobytes of input, which is known before the number of rows is."""

    bar: Bar
    total: int
    kilobytes: int = 0
    rows: int = 0

    def add(self, batch: _CleanBatch) -> None:
        self.rows += batch.counts.num_rows
        more = min(len(batch.fragment.lines) // 1000, self.total - self.kilobytes)
        self.kilobytes += more
        self.bar.advance(more, f"{self.rows} rows")

    def finish(self) -> None:
        if self.kilobytes < self.total:
            self.bar.advance(self.total - self.kilobytes, f"{self.rows} rows")


def _batches(rows: Iterable[RawRow | Refused]) -> Iterator[list[RawRow | Refused]]:
    rows = iter(rows)
    while batch := list(islice(rows, BATCH_ROWS)):
        yield batch


def _grouped(cleaned: Iterable[_CleanBatch], position: _ReadingBar) -> Iterator[list[_CleanBatch]]:
    """Batches enough for a part at a time."""
    part: list[_CleanBatch] = []
    for batch in cleaned:
        part.append(batch)
        position.add(batch)
        if sum(each.counts.num_rows for each in part) >= PART_ROWS:
            yield part
            part = []
    if part:
        yield part


def _write_part(folder: Path, batches: Sequence[_CleanBatch]) -> None:
    """One part, whole or absent: its folder appears when all is in it.

    Processes that fill one cache at once make the same parts; the first one's stay.
    """
    making = files.temporary_beside(folder)
    write_part(making, [batch.fragment for batch in batches])
    counts = CleaningCounts()
    for batch in batches:
        counts.add(batch.counts)
    if counts.num_refused:
        files.write_jsonl(making / REFUSED, (asdict(row) for b in batches for row in b.refused))
    (making / REPORT).write_text(json.dumps(counts.to_json()), encoding="utf-8")
    files.settle(making, folder)


def _clean(
    batch: list[RawRow | Refused], *, source: DataSource, steps: Sequence[RowStep]
) -> _CleanBatch:
    """Convert and clean a batch of rows; runs in any process."""
    counts = CleaningCounts(num_rows=len(batch))
    kept: list[Example] = []
    refused: list[Refused] = []
    folder = source.pictures
    for raw in batch:
        row = raw if isinstance(raw, Refused) else convert(raw, source, folder)
        if isinstance(row, Refused):
            refused.append(row)
            continue
        if isinstance(raw, RawRow):
            counts.add_unread(dict.fromkeys(unread_fields(raw.value, source.layout), 1))
        clean = _apply(row, steps, counts)
        if clean is not None:
            kept.append(clean)
    counts.num_refused = len(refused)
    return _CleanBatch(make_fragment(kept), refused, counts)


def convert(
    raw: RawRow, source: DataSource, folder: Path | None = None, *, may_lack_answer: bool = False
) -> Example | Refused:
    """What a row of a set teaches, or asks; `folder` is where its pictures lie."""
    return to_example(
        raw,
        group=source.name,
        file=file_name(source),
        layout=source.layout,
        folder=folder,
        may_lack_answer=may_lack_answer,
    )


def _apply(row: Example, steps: Sequence[RowStep], counts: CleaningCounts) -> Example | None:
    """The row after all steps, or None where one of them drops it."""
    for step in steps:
        cleaned = step.clean(row)
        if cleaned is row:
            continue
        name = CLEANERS.name_of(step)
        if isinstance(cleaned, Dropped):
            counts.add_dropped(name, cleaned.reason, 1, [row])
            return None
        counts.add_change(name, row, cleaned)
        row = cleaned
    return row


Work = TypeVar("Work")
Result = TypeVar("Result")


class Workers:
    """Processes that carry work out, in the order of the work; without any, this one does."""

    def __init__(self, executor: ProcessPoolExecutor | None, max_waiting: int = 0) -> None:
        self._executor = executor
        self._max_waiting = max_waiting

    def map(self, task: Callable[[Work], Result], work: Iterable[Work]) -> Iterator[Result]:
        """`task` of every piece of work, in order."""
        if self._executor is None:
            yield from map(task, work)
            return
        waiting: deque[Future[Result]] = deque()
        for piece in work:
            waiting.append(self._executor.submit(task, piece))
            if len(waiting) >= self._max_waiting:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _WithoutMain(SpawnProcess):
    """A process that does not run the program's main file again.

    Work is done by functions of this package. A script of a user's that calls it, and that does not
    ask `if __name__ == "__main__":`, would otherwise do all it does once more in each process.
    """

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  # the name of multiprocessing
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class _Context(SpawnContext):
    Process = _WithoutMain


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """`count` processes of the same program; 0 takes one a core, 1 none beside this one.

    They are started anew and share nothing with this process, whose libraries may hold threads.
    """
    count = count or os.cpu_count() or 1
    if count == 1:  # for little work: starting a process takes longer
        yield Workers(None)
        return
    parts = plugins.imported_files()
    with ProcessPoolExecutor(
        count, _Context(), initializer=plugins.import_files, initargs=(parts,)
    ) as executor:
        try:
            yield Workers(executor, count * (1 + WAITING_PER_WORKER))
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
