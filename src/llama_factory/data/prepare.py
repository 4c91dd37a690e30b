"""Files -> the rows of a round: checked, without duplicates, split into taught and held out."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.data.reading import Refused, is_test_file, read_examples

FEWEST_ROWS_TO_SPLIT = 5
"""A group with fewer rows than this gives up none of them for testing."""


@dataclass(frozen=True)
class Seen:
    """What a lineage knows already: version id by content key.

    Attributes:
        taught: keys of all rows ever trained on.
        tested: keys and prompt keys of all rows ever held out.
    """

    taught: Mapping[str, str] = field(default_factory=dict)
    tested: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataReport:
    """What became of every row and file.

    Attributes:
        files: rows read, by file name.
        kept: rows to teach, by group.
        held_out: rows to test, by group.
        dropped: rows left out although they are fine, by reason.
        refused: rows and files in quarantine, each with its reason.
    """

    files: Mapping[str, int]
    kept: Mapping[str, int]
    held_out: Mapping[str, int]
    dropped: Mapping[str, int]
    refused: tuple[Refused, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json; refused rows without their text."""
        refused = [{"file": r.file, "line": r.line, "reason": r.reason} for r in self.refused]
        return asdict(self) | {"refused": refused}


@dataclass(frozen=True)
class PreparedData:
    """The rows of one round.

    Attributes:
        train: rows to teach.
        held_out: rows to test, never taught.
        report: what became of every row.
    """

    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    report: DataReport

    @property
    def fingerprint(self) -> str:
        """Identifies the rows and their order."""
        digest = hashlib.blake2b(digest_size=16)
        for row in (*self.train, *self.held_out):
            digest.update(row.key.encode())
        return digest.hexdigest()


@dataclass
class _Sorting:
    """Rows on their way to one of four places."""

    train: dict[str, Example] = field(default_factory=dict)
    test: dict[str, Example] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)


def prepare(
    paths: Sequence[Path],
    seen: Seen,
    *,
    held_out_fraction: float,
    test_paths: Sequence[Path] = (),
) -> PreparedData:
    """Read files and decide what each row is for.

    Exact duplicates of anything taught before are dropped and counted, so are rows whose prompt is
    held out for testing; bad rows and unreadable files are set aside and the rest goes on.

    Args:
        paths: files; those named `NAME.test.*` are only tested.
        seen: what the lineage was taught and tested on.
        held_out_fraction: share of the rows of groups without a test file that is held out.
        test_paths: files whose rows are only tested, whatever they are called.
    """
    sorting = _Sorting()
    is_test = {path: is_test_file(path) for path in paths} | dict.fromkeys(test_paths, True)
    for path in sorted(is_test, key=lambda p: (not is_test[p], p.name)):
        _sort_file(path, sorting, seen, is_test=is_test[path])
    _split(sorting, held_out_fraction)
    report = DataReport(
        files=sorting.files,
        kept=_count(sorting.train.values()),
        held_out=_count(sorting.test.values()),
        dropped=dict(sorting.dropped),
        refused=tuple(sorting.refused),
    )
    return PreparedData(tuple(sorting.train.values()), tuple(sorting.test.values()), report)


def _sort_file(path: Path, sorting: _Sorting, seen: Seen, *, is_test: bool) -> None:
    try:
        rows = list(read_examples(path))
    except DataError as error:
        sorting.refused.append(Refused(path.name, 0, str(error)))
        return
    sorting.files[path.name] = len(rows)
    tested_prompts = {row.prompt_key for row in sorting.test.values()}
    for row in rows:
        if isinstance(row, Refused):
            sorting.refused.append(row)
            continue
        reason = _why_not(row, sorting, seen, tested_prompts, is_test=is_test)
        if reason:
            sorting.dropped[reason] += 1
        else:
            (sorting.test if is_test else sorting.train)[row.key] = row


def _why_not(
    row: Example, sorting: _Sorting, seen: Seen, tested_prompts: set[str], *, is_test: bool
) -> str | None:
    """Why a good row is left out, or None."""
    if row.key in seen.taught:
        return f"taught before in {seen.taught[row.key]}"
    version = seen.tested.get(row.key) or seen.tested.get(row.prompt_key)
    if version:
        return f"held out for testing in {version}"
    if row.key in sorting.train or row.key in sorting.test:
        return "twice in this round"
    if not is_test and row.prompt_key in tested_prompts:
        return "its question is held out for testing in this round"
    return None


def _split(sorting: _Sorting, fraction: float) -> None:
    """Move the share of each group whose prompt hash is lowest from train to test.

    A row's side depends on its own prompt and not on the other rows, so it never changes as data
    grows; only a group that would be left without a single test row gives up its lowest one.
    """
    groups: dict[str, list[Example]] = {}
    for row in sorting.train.values():
        groups.setdefault(row.group, []).append(row)
    for group in {row.group for row in sorting.test.values()}:
        groups.pop(group, None)
    for rows in groups.values():
        if fraction == 0 or len(rows) < FEWEST_ROWS_TO_SPLIT:
            continue
        limit = max(int(fraction * 16**8), min(_place(row) for row in rows) + 1)
        for row in rows:
            if _place(row) < limit:
                sorting.test[row.key] = sorting.train.pop(row.key)


def _place(row: Example) -> int:
    """A row's fixed place on a line of 2**32 points."""
    return int(row.prompt_key[:8], 16)


def _count(rows: Iterable[Example]) -> dict[str, int]:
    return dict(Counter(row.group for row in rows))


def save(data: PreparedData, folder: Path) -> None:
    """Write the rows and the report into a folder."""
    files.write_jsonl(folder / "train.jsonl", (row.to_json() for row in data.train))
    files.write_jsonl(folder / "held_out.jsonl", (row.to_json() for row in data.held_out))
    files.write_json(folder / "report.json", data.report.to_json())


def load(folder: Path) -> PreparedData:
    """The inverse of `save`."""
    report = files.read_json(folder / "report.json")
    refused = tuple(Refused(**row) for row in report.pop("refused"))
    return PreparedData(
        train=load_rows(folder / "train.jsonl"),
        held_out=load_rows(folder / "held_out.jsonl"),
        report=DataReport(**report, refused=refused),
    )


def load_rows(path: Path) -> tuple[Example, ...]:
    """The rows of one file that `save` wrote."""
    return tuple(map(Example.from_json, files.read_jsonl(path)))
