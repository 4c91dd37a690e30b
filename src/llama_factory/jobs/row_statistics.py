"""What rows are made of, for a person who looks: of a file that waits, and of all that was taught.

Of large files and many versions a sample is read; what a version came to is kept in the cache.
"""

import contextlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.types import Example
from llama_factory.data.reading import Refused
from llama_factory.data.settings import DataSettings
from llama_factory.data.sources.named import gather_path
from llama_factory.data.stats import DataStats, collect, rows_in
from llama_factory.model.source import find_tokenizer
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

MOST_ROWS = 10_000
"""Of a file that waits."""
ROWS_OF_VERSION = 400
"""Of each version, from all over its file."""
LOOK_SECONDS = 2.0
"""For versions that nobody has looked at: the others come the next time."""
READ_WHOLE_BYTES = 1_000_000
"""Larger files of rows are read in places alone."""
FOLDER = "statistics"


@dataclass(frozen=True)
class RowStatistics:
    """What rows are made of; counts of a sample are scaled to all rows.

    Attributes:
        num_rows: all of them.
        num_read: rows that were read for languages and lengths.
        groups: rows by task.
        sources: rows by file.
        languages: rows by the language of the answer.
        lengths: rows by the place of their length in `data.stats.Histogram`.
        unit: of lengths: `tokens`, or `characters` where no tokenizer lies here.
        num_tested: rows held out.
        left_out: rows that were not taken, by reason; duplicates among them.
        num_refused: rows that could not be read.
        num_left: versions that were not looked at yet.
    """

    num_rows: int = 0
    num_read: int = 0
    groups: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)
    unit: str = "characters"
    num_tested: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    num_refused: int = 0
    num_left: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        listed = vars(self).items()
        return {name: dict(each) if isinstance(each, Counter) else each for name, each in listed}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "RowStatistics":
        """The inverse of `to_json`."""
        counted: dict[str, Any] = {
            name: Counter(each) if isinstance(each, dict) else each for name, each in values.items()
        }
        counted["lengths"] = Counter({int(place): n for place, n in values["lengths"].items()})
        return RowStatistics(**counted)


def statistics_of_file(path: Path, settings: DataSettings, base_model: str) -> RowStatistics:
    """What the rows of a file are made of, as they are before any cleaning.

    Args:
        path: the file.
        settings: how files are read.
        base_model: whose tokens are counted, where its tokenizer lies on this machine.
    """
    rows = islice(rows_in(gather_path(path, settings)), MOST_ROWS)
    stats = collect(rows, num_tokens=_token_counter(base_model))
    return _described(stats, stats.num_rows, stats.groups, stats.files)


def statistics_of_taught(
    workspace: Workspace, base_model: str, clock: Callable[[], float] = time.monotonic
) -> RowStatistics:
    """What all versions were taught.

    Args:
        workspace: whose versions.
        base_model: as in `statistics_of_file`.
        clock: in seconds.
    """
    counter = _token_counter(base_model)
    unit = "tokens" if counter else "characters"
    until, listed, num_left = clock() + LOOK_SECONDS, [], 0
    for version_id in reversed(store.ids(workspace)):
        known = _cached(workspace, version_id, unit)
        if known is None and clock() < until:
            known = _of_version(workspace, version_id, counter)
        if known is None:
            num_left += 1
        else:
            listed.append(known)
    return _joined(listed, unit, num_left)


def _of_version(
    workspace: Workspace, version_id: str, counter: Callable[[str], int] | None
) -> RowStatistics:
    """Of one version; what is damaged of it counts nothing."""
    try:
        version = ModelVersion.read(workspace.versions / version_id)
        report = {} if version.is_base else version.report.get("data", {})
    except VersionError:
        return RowStatistics()
    stats = collect(_sampled(version.folder / "data" / "train.jsonl"), num_tokens=counter)
    groups = Counter(report.get("kept", {}))
    sources = Counter({each["file"]: each["num_kept"] for each in report.get("sets", ())})
    num_rows = groups.total() or version.num_rows
    made = _described(stats, num_rows, groups, sources)
    known = replace(
        made,
        num_tested=sum(report.get("held_out", {}).values()),
        left_out=Counter(report.get("dropped", {})),
        num_refused=int(report.get("num_refused", 0)),
    )
    files.write_json(_cache_file(workspace, version_id, made.unit), known.to_json())
    return known


def _described(
    stats: DataStats, num_rows: int, groups: Mapping[str, int], sources: Mapping[str, int]
) -> RowStatistics:
    lengths = stats.tokens or stats.answers
    factor = num_rows / max(1, stats.num_rows)
    left_out = Counter({"duplicates": stats.num_duplicates} if stats.num_duplicates else {})
    return RowStatistics(
        num_rows=num_rows,
        num_read=stats.num_rows,
        groups=Counter(groups),
        sources=Counter(sources),
        languages=_scaled(stats.languages, factor),
        lengths=_scaled({n: c for n, c in enumerate(lengths.counts) if c}, factor),
        unit="tokens" if stats.tokens else "characters",
        left_out=left_out,
        num_refused=stats.num_refused,
    )


def _scaled(counts: Mapping[Any, int], factor: float) -> Counter[Any]:
    return Counter({name: max(1, round(count * factor)) for name, count in counts.items()})


def _joined(listed: list[RowStatistics], unit: str, num_left: int) -> RowStatistics:
    def total(name: str) -> int:
        return sum(getattr(each, name) for each in listed)

    def counts(name: str) -> Counter[Any]:
        together: Counter[Any] = Counter()
        for each in listed:
            together.update(getattr(each, name))
        return together

    names = ("groups", "sources", "languages", "lengths", "left_out")
    numbers = ("num_rows", "num_read", "num_tested", "num_refused")
    values: dict[str, Any] = {name: counts(name) for name in names}
    values |= {name: total(name) for name in numbers}
    return RowStatistics(**values, unit=unit, num_left=num_left)


def _sampled(path: Path) -> Iterator[Example | Refused]:
    """Rows from all over a file of rows, or all of a small one; damaged lines are left out."""
    if path.is_file():
        for line in _lines_of(path):
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                yield Example.from_json(json.loads(line))


def _lines_of(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= READ_WHOLE_BYTES:
            lines = file.read().splitlines()
            yield from lines[:: max(1, math.ceil(len(lines) / ROWS_OF_VERSION))]
            return
        for start in range(0, size, size // ROWS_OF_VERSION):
            file.seek(start)
            if start:
                file.readline()  # the rest of a line
            yield file.readline()


def _cached(workspace: Workspace, version_id: str, unit: str) -> RowStatistics | None:
    try:
        return RowStatistics.from_json(files.read_json(_cache_file(workspace, version_id, unit)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _cache_file(workspace: Workspace, version_id: str, unit: str) -> Path:
    return workspace.cache / FOLDER / f"{version_id}-{unit}.json"


def _token_counter(base_model: str) -> Callable[[str], int] | None:
    path = find_tokenizer(base_model)
    return _counter_of(path) if path else None


@cache
def _counter_of(path: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))
