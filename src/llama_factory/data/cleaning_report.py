"""What became of rows: counts and examples of what cleaning changed and dropped, set by set."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from llama_factory.core.types import Example
from llama_factory.data.readers import Refused

MAX_SAMPLES = 3
"""Examples shown of every change and of every reason to drop a row."""
SAMPLE_CHARACTERS = 160
MAX_UNREAD = 1000
"""Fields that nothing reads and that are counted each for itself."""
MAX_UNREAD_SHOWN = 8
UNREAD_REMEDY = (
    "To teach one, call a question `instruction`, what it is about `input`, an answer `output`; or "
    "name them under `columns` in dataset_info.json."
)


@dataclass(frozen=True)
class RowSample:
    """One row that a step changed or dropped, cut short; `after` is empty where it was dropped."""

    step: str
    reason: str
    file: str
    line: int
    before: str
    after: str = ""


@dataclass
class CleaningCounts:
    """How many rows were read, changed, dropped and refused, with a few examples of each.

    Attributes:
        num_rows: rows read, whatever became of them.
        changed: rows changed, by step.
        dropped: rows dropped, by step and reason.
        num_refused: rows that could not be read as rows.
        unread: good rows that hold something in a field that nothing reads, by field.
        samples: up to MAX_SAMPLES of each kind.
    """

    num_rows: int = 0
    changed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)
    num_refused: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    samples: list[RowSample] = field(default_factory=list)

    @property
    def num_kept(self) -> int:
        """Rows that were neither refused nor dropped."""
        return self.num_rows - self.num_refused - self.dropped.total()

    def add(self, other: "CleaningCounts") -> None:
        """Add the counts and samples of other rows."""
        self.num_rows += other.num_rows
        self.changed.update(other.changed)
        self.dropped.update(other.dropped)
        self.num_refused += other.num_refused
        self.add_unread(other.unread)
        for sample in other.samples:
            self._add_sample(sample)

    def add_unread(self, fields: Mapping[str, int]) -> None:
        """Count fields that nothing reads, as long as there are not too many."""
        for name, count in fields.items():
            if name in self.unread or len(self.unread) < MAX_UNREAD:
                self.unread[name] += count

    def add_change(self, step: str, before: Example, after: Example) -> None:
        """Count a row that a step changed."""
        self.changed[step] += 1
        if self.num_samples_missing(step):
            old, new = _difference(before, after)
            self._add_sample(RowSample(step, "", before.file, before.line, old, new))

    def add_dropped(self, step: str, reason: str, count: int, rows: Iterable[Example]) -> None:
        """Count rows that a step dropped, and show the first of them unless enough are shown."""
        self.dropped[step, reason] += count
        for row in islice(rows, self.num_samples_missing(step, reason)):
            before = _cut(_text(row), 0)
            self.samples.append(RowSample(step, reason, row.file, row.line, before))

    def num_samples_missing(self, step: str, reason: str = "") -> int:
        """How many more samples of a kind are wanted."""
        return MAX_SAMPLES - sum((s.step, s.reason) == (step, reason) for s in self.samples)

    def _add_sample(self, sample: RowSample) -> None:
        if self.num_samples_missing(sample.step, sample.reason):
            self.samples.append(sample)

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
    def from_json(values: Mapping[str, Any]) -> "CleaningCounts":
        """The inverse of `to_json`."""
        dropped = Counter({(step, reason): count for step, reason, count in values["dropped"]})
        return CleaningCounts(
            values["num_rows"],
            Counter(values["changed"]),
            dropped,
            values["num_refused"],
            Counter(values["unread"]),
            [RowSample(**sample) for sample in values["samples"]],
        )


def _difference(before: Example, after: Example) -> tuple[str, str]:
    """Both texts from shortly before the place where they begin to differ, cut short."""
    old, new = _text(before), _text(after)
    pairs = enumerate(zip(old, new, strict=False))
    place = next((i for i, (a, b) in pairs if a != b), min(len(old), len(new)))
    start = max(0, place - SAMPLE_CHARACTERS // 4)
    return _cut(old, start), _cut(new, start)


def _text(row: Example) -> str:
    return "\n".join(turn.content for turn in row.messages)


def _cut(text: str, start: int) -> str:
    end = start + SAMPLE_CHARACTERS
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")


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
    def unread_warning(self) -> str:
        """The fields that nothing reads and what to do about them; empty where there are none."""
        ranked = sorted(self.unread.items(), key=lambda each: -each[1])
        named = [f"'{name}' ({count} rows)" for name, count in ranked[:MAX_UNREAD_SHOWN]]
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
    samples: tuple[RowSample, ...] = ()
    corrected: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    fingerprint: str = ""

    @property
    def unread_warnings(self) -> list[str]:
        """A warning for each set with fields that nothing reads."""
        return [each.unread_warning for each in self.sets if each.unread]

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json; refused rows without their text."""
        refused = [{"file": r.file, "line": r.line, "reason": r.reason} for r in self.refused]
        return asdict(self) | {"refused": refused}

    @staticmethod
    def from_json(values: dict[str, Any]) -> "DataReport":
        """The inverse of `to_json`."""
        refused = tuple(Refused(**row) for row in values["refused"])
        samples = tuple(RowSample(**sample) for sample in values["samples"])
        sets = tuple(SetReport(**each) for each in values["sets"])
        parts: dict[str, Any] = {"sets": sets, "refused": refused, "samples": samples}
        keys = {name: tuple(values.get(name, ())) for name in ("corrected", "retired")}
        return DataReport(**values | parts | keys)
