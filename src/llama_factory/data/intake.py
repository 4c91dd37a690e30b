"""Files -> tables of clean rows: read, converted and cleaned in parallel, each file only once.

What a file came to is kept in a cache under the hash of its content and of the settings, in parts:
a killed run goes on after the last whole part, and the next round reads only new files.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from llama_factory.core import files, plugins
from llama_factory.core.errors import DataError
from llama_factory.core.progress import Bar, Progress
from llama_factory.core.types import Example
from llama_factory.core.version import VERSION
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep
from llama_factory.data.formats.unread import unread_fields
from llama_factory.data.reading import RawRow, Refused, to_example
from llama_factory.data.sources.files import DataSource, data_files, rows_of
from llama_factory.data.sources.hub import pinned
from llama_factory.data.table import Fragment, Part, make_fragment, write_part
from llama_factory.data.workers import Workers, workers
from llama_factory.text import signatures

BATCH_ROWS = 500
"""Rows handed to a process at once."""
PART_ROWS = 20_000
"""Rows in a part of the cache: what a killed run may have to do again."""
BYTES_WORTH_WORKERS = 4_000_000
"""Files smaller than this together are cleaned in this process: starting others takes a second."""
MOST_SAMPLES = 3
"""Examples shown of every change and of every reason to drop a row."""
SAMPLE_CHARACTERS = 160
CACHE_DAYS = 30
READING = 2
"""Counts how files have been read so far: what they came to otherwise is not used again."""
MOST_UNREAD = 1000
"""Fields that nothing reads and that are counted each for itself."""
SOURCE_NAME = re.compile("[0-9a-f]{32}")
"""What the folder of a source is called in the cache, where other things lie too."""
OLD = ".old"
"""End of the names of folders in the cache that are being removed."""
REFUSED, REPORT, DONE = "refused.jsonl", "report.json", "done"


@dataclass(frozen=True)
class Sample:
    """One row that a step changed or dropped."""

    step: str
    reason: str
    file: str
    line: int
    before: str
    after: str = ""


@dataclass
class Tally:
    """What became of rows: counts, and a few examples of each.

    Attributes:
        num_rows: rows read, whatever became of them.
        changed: rows changed, by step.
        dropped: rows dropped, by step and reason.
        num_refused: rows that are no rows.
        unread: good rows that hold something in a field that nothing reads, by field.
        samples: up to MOST_SAMPLES of each kind.
    """

    num_rows: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    num_refused: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count what another tally counted, too."""
        self.num_rows += other.num_rows
        self.changed.update(other.changed)
        self.dropped.update(other.dropped)
        self.num_refused += other.num_refused
        self.note_unread(other.unread)
        for sample in other.samples:
            self.show(sample)

    def note_unread(self, fields: Mapping[str, int]) -> None:
        """Count fields that nothing reads, as long as there are not too many."""
        for name, count in fields.items():
            if name in self.unread or len(self.unread) < MOST_UNREAD:
                self.unread[name] += count

    def show(self, sample: Sample) -> None:
        """Keep a sample unless there are enough of its kind."""
        if self.samples_wanted(sample.step, sample.reason):
            self.samples.append(sample)

    def samples_wanted(self, step: str, reason: str) -> int:
        """How many more samples of a kind are worth showing."""
        return MOST_SAMPLES - sum((s.step, s.reason) == (step, reason) for s in self.samples)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        dropped = [[step, reason, count] for (step, reason), count in self.dropped.items()]
        return {
            "num_rows": self.num_rows,
            "changed": dict(self.changed),
            "dropped": dropped,
            "num_refused": self.num_refused,
            "unread": dict(self.unread),
            "samples": [asdict(sample) for sample in self.samples],
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Tally":
        """The inverse of `to_json`."""
        dropped = Counter({(step, reason): count for step, reason, count in values["dropped"]})
        samples = [Sample(**sample) for sample in values["samples"]]
        changed = Counter(values["changed"])
        unread = Counter(values["unread"])
        return Tally(values["num_rows"], changed, dropped, values["num_refused"], unread, samples)


@dataclass(frozen=True)
class Taken:
    """What one source came to.

    Attributes:
        source: where the rows came from.
        parts: its clean rows.
        tally: what became of all its rows.
        refused: files of refused rows, as JSON lines.
    """

    source: DataSource
    parts: tuple[Part, ...]
    tally: Tally
    refused: tuple[Path, ...]

    def refused_rows(self) -> Iterator[Refused]:
        """The rows that are no rows, each with its reason."""
        for path in self.refused:
            yield from (Refused(**row) for row in files.read_jsonl(path))


@dataclass(frozen=True)
class _Batch:
    rows: list[RawRow | Refused]


@dataclass(frozen=True)
class _Cleaned:
    fragment: Fragment
    refused: list[Refused]
    tally: Tally


def take(
    sources: Sequence[DataSource],
    steps: Sequence[RowStep],
    cache: Path,
    *,
    num_workers: int,
    progress: Progress,
) -> list[Taken | Refused]:
    """Clean all sources; one that cannot be read comes as `Refused` and the others go on.

    Args:
        sources: in the order wanted; the results come in the same order.
        steps: applied to every row in turn.
        cache: folder of what was done before.
        num_workers: processes; 0 for one a core.
        progress: shows the rows of each file as they are done.
    """
    sources = [_pinned(source, cache, progress) for source in sources]
    folders = [_folder(source, steps, cache) for source in sources]
    with _alone(cache):
        for folder in filter(None, folders):
            _mark_used(folder)
        gone = _put_aside_old(cache)
    _remove(gone)
    pairs = list(zip(sources, folders, strict=True))
    todo = sum(num_bytes(s) for s, folder in pairs if folder and not (folder / DONE).exists())
    with workers(1 if todo < BYTES_WORTH_WORKERS else num_workers) as crew:
        return [_take(source, folder, steps, crew, progress) for source, folder in pairs]


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


def _folder(source: DataSource, steps: Sequence[RowStep], cache: Path) -> Path | None:
    """Where in the cache a source belongs; None where it must not be read."""
    return None if source.problem else cache / _fingerprint(source, steps)


def _take(
    source: DataSource,
    folder: Path | None,
    steps: Sequence[RowStep],
    crew: Workers,
    progress: Progress,
) -> Taken | Refused:
    if folder is None:
        return Refused(file_name(source), 0, source.problem)
    try:
        if not (folder / DONE).exists():
            _fill(folder, source, steps, crew, progress)
    except DataError as error:
        return Refused(file_name(source), 0, str(error))
    return _open(source, folder)


def _require_same(folder: Path, source: DataSource, steps: Sequence[RowStep]) -> None:
    """Refuse rows of a file that was written to while it was read.

    Raises:
        DataError: its content is not that under whose hash the rows were about to be kept.
    """
    if source.path is not None and _fingerprint(source, steps) != folder.name:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError("was changed while it was read. Wait until it is whole, and try again.")


def file_name(source: DataSource) -> str:
    """What the rows of a source name as their file."""
    return source.path.name if source.path is not None else source.name


def _open(source: DataSource, folder: Path) -> Taken:
    parts = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    tally = Tally()
    for part in parts:
        tally.add(Tally.from_json(files.read_json(part / REPORT)))
    refused = tuple(part / REFUSED for part in parts)
    return Taken(source, tuple(map(Part.of, parts)), tally, refused)


def _fill(
    folder: Path, source: DataSource, steps: Sequence[RowStep], crew: Workers, progress: Progress
) -> None:
    """Do the parts of a source that are not there yet."""
    parts = sorted(folder.glob("part-*")) if folder.exists() else []
    done = sum(int(files.read_json(part / REPORT)["num_rows"]) for part in parts)
    rows = islice(rows_of(source), done, None)
    task = partial(_clean, source=source, steps=tuple(steps))
    cleaned = crew.map(task, _batches(rows))
    total = num_bytes(source) // 1000
    with progress.bar(f"reading {file_name(source)} (kB)", total) as bar:
        shown = _Shown(bar, total)
        for number, batches in enumerate(_parts(cleaned, shown), len(parts)):
            _write(folder / f"part-{number:05d}", batches)
        shown.finish()
    _require_same(folder, source, steps)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DONE).touch()


@dataclass
class _Shown:
    """A bar in kilobytes of input, which is known before the number of rows is."""

    bar: Bar
    total: int
    kilobytes: int = 0
    rows: int = 0

    def add(self, cleaned: _Cleaned) -> None:
        self.rows += cleaned.tally.num_rows
        more = min(len(cleaned.fragment.lines) // 1000, self.total - self.kilobytes)
        self.kilobytes += more
        self.bar.advance(more, f"{self.rows} rows")

    def finish(self) -> None:
        if self.kilobytes < self.total:
            self.bar.advance(self.total - self.kilobytes, f"{self.rows} rows")


def _batches(rows: Iterable[RawRow | Refused]) -> Iterator[_Batch]:
    rows = iter(rows)
    while batch := list(islice(rows, BATCH_ROWS)):
        yield _Batch(batch)


def _parts(cleaned: Iterable[_Cleaned], shown: _Shown) -> Iterator[list[_Cleaned]]:
    part: list[_Cleaned] = []
    for each in cleaned:
        part.append(each)
        shown.add(each)
        if sum(batch.tally.num_rows for batch in part) >= PART_ROWS:
            yield part
            part = []
    if part:
        yield part


def _write(folder: Path, batches: Sequence[_Cleaned]) -> None:
    """One part, whole or absent: its folder appears when all is in it.

    Processes that fill one cache at once make the same parts; the first one's stay.
    """
    making = files.temporary_beside(folder)
    write_part(making, [batch.fragment for batch in batches])
    tally = Tally()
    for batch in batches:
        tally.add(batch.tally)
    if tally.num_refused:
        files.write_jsonl(making / REFUSED, (asdict(row) for b in batches for row in b.refused))
    (making / REPORT).write_text(json.dumps(tally.to_json()), encoding="utf-8")
    files.settle(making, folder)


def _clean(batch: _Batch, *, source: DataSource, steps: Sequence[RowStep]) -> _Cleaned:
    """Convert and clean a batch of rows; runs in any process."""
    tally = Tally(num_rows=len(batch.rows))
    kept: list[Example] = []
    refused: list[Refused] = []
    folder = source.pictures
    for raw in batch.rows:
        row = raw if isinstance(raw, Refused) else convert(raw, source, folder)
        if isinstance(row, Refused):
            refused.append(row)
            continue
        if isinstance(raw, RawRow):
            tally.note_unread(dict.fromkeys(unread_fields(raw.value, source.layout), 1))
        clean = _apply(row, steps, tally)
        if clean is not None:
            kept.append(clean)
    tally.num_refused = len(refused)
    return _Cleaned(make_fragment(kept), refused, tally)


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


def _apply(row: Example, steps: Sequence[RowStep], tally: Tally) -> Example | None:
    """The row after all steps, or None where one of them drops it."""
    for step in steps:
        cleaned = step.clean(row)
        if cleaned is row:
            continue
        name = CLEANERS.name_of(step)
        if isinstance(cleaned, Dropped):
            tally.dropped[name, cleaned.reason] += 1
            tally.show(Sample(name, cleaned.reason, row.file, row.line, *difference(row)))
            return None
        tally.changed[name] += 1
        tally.show(Sample(name, "", row.file, row.line, *difference(row, cleaned)))
        row = cleaned
    return row


def difference(before: Example, after: Example | None = None) -> tuple[str, str]:
    """What to show of a row, and of what became of it: where they begin to differ, cut short."""
    old = "\n".join(turn.content for turn in before.messages)
    if after is None:
        return _cut(old, 0), ""
    new = "\n".join(turn.content for turn in after.messages)
    pairs = enumerate(zip(old, new, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
    start = max(0, place - SAMPLE_CHARACTERS // 4)
    return _cut(old, start), _cut(new, start)


def _cut(text: str, start: int) -> str:
    end = start + SAMPLE_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


def _fingerprint(source: DataSource, steps: Sequence[RowStep]) -> str:
    """Names what a source comes to: its content, how it is read, and the steps."""
    settings = [CLEANERS.name_of(step) + step.model_dump_json() for step in steps]
    path = source.path
    paths = [path] if path and path.is_file() else data_files(path) if path else []
    content = [[each.name, files.sha256(each)] for each in paths if each.is_file()]
    how = [source.name, repr(source.hub), repr(source.layout), source.encoding]
    folder = str(source.pictures.resolve()) if source.pictures else ""
    parts = [VERSION, READING, signatures.version(), content, how, folder, *plugins.identity()]
    identity = json.dumps([*parts, *settings])
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def forget_old(cache: Path) -> None:
    """Remove what has not been used for CACHE_DAYS days, and what killed processes left."""
    with _alone(cache):
        gone = _put_aside_old(cache)
    _remove(gone)


def _alone(cache: Path) -> AbstractContextManager[None]:
    """Nobody marks what is used, or puts aside what is not, at the same time."""
    return files.locked(cache / ".lock", what="looking through the cache", seconds=60)


def _mark_used(folder: Path) -> None:
    """A source that begins to be used today is not forgotten while it is."""
    if (folder / DONE).exists():
        (folder / DONE).touch()
    elif folder.exists():
        os.utime(folder)


def _put_aside_old(cache: Path) -> list[Path]:
    """Rename what is to go, so that nobody finds a half of it; removing takes longer."""
    oldest = time.time() - CACHE_DAYS * 24 * 3600
    gone = [path for path in cache.glob(f"*{OLD}") if path.is_dir()]
    for folder in cache.iterdir():
        if SOURCE_NAME.fullmatch(folder.name) and _last_use(folder) < oldest:
            gone.append(files.temporary_beside(folder).with_suffix(OLD))
            folder.rename(gone[-1])
    return gone


def _last_use(folder: Path) -> float:
    done = folder / DONE
    return (done if done.exists() else folder).stat().st_mtime


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # another process may be at it
