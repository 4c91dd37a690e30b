"""Files of rows: read, augmented and written one row at a time, never all in memory."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.types import Example
from llama_factory.data.augment import AUGMENTATIONS, Augmentation, AugmentPlan
from llama_factory.data.augment.variants import augment_example, variants

if TYPE_CHECKING:
    from llama_factory.data.readers import Refused

MOST_SAMPLES = 3
MOST_REFUSED = 100
"""Refused rows that a report keeps with their reasons; all of them are counted."""


@dataclass(frozen=True)
class AugmentSample:
    """A turn as it was and as a method wrote it."""

    method: str
    before: str
    after: str


@dataclass
class AugmentReport:
    """What became of a file's rows.

    Attributes:
        num_rows: rows read and written as they were.
        added: rows made, by method.
        num_refused: rows that could not be read, and are not written.
        refused: the first of these, each with its reason.
        samples: a few turns before and after, from different rows.
    """

    num_rows: int = 0
    added: Counter[str] = field(default_factory=Counter)
    num_refused: int = 0
    refused: "list[Refused]" = field(default_factory=list)
    samples: list[AugmentSample] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values; refused rows without their text."""
        refused = [{"file": r.file, "line": r.line, "reason": r.reason} for r in self.refused]
        return asdict(self) | {"added": dict(self.added), "refused": refused}


def write_augmented(
    rows: "Iterable[Example | Refused]",
    output: Path,
    plan: AugmentPlan,
    *,
    overwrite: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> AugmentReport:
    """Write rows, each followed by its variants, as JSON lines; the file is whole or absent.

    Args:
        rows: of any file; what cannot be read comes as `Refused`, and is counted.
        output: the new file.
        plan: methods and copies.
        overwrite: whether a file that is there already may be replaced.
        advance: called after every row.

    Raises:
        DataError: the output exists already, or no row can be read.
    """
    if output.exists() and not overwrite:
        raise DataError(
            f"{output} exists already. Give another name, or --overwrite to replace it."
        )
    report = AugmentReport(added=Counter({AUGMENTATIONS.name_of(m): 0 for m in plan.methods}))
    with files.writing(output) as file:
        for row in _augmented(rows, plan, report):
            file.write(_line(row))
            if not row.augmented_by:
                advance()
        if not report.num_rows:
            raise DataError(_nothing(report))
    return report


def _line(row: Example) -> bytes:
    values = row.to_json()
    try:
        return json.dumps(values, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which UTF-8 has not but JSON can spell out
        return json.dumps(values).encode() + b"\n"


def _augmented(
    rows: "Iterable[Example | Refused]", plan: AugmentPlan, report: AugmentReport
) -> Iterator[Example]:
    """Each row and its variants, counted in the report."""

    def change(row: Example, method: Augmentation, copy: int) -> Example | None:
        if row.is_text:  # noise in it would be learned
            return None
        return augment_example(row, method, copy, seed=plan.seed)

    for row, new in variants(_readable(rows, report), plan, change):
        report.num_rows += 1
        report.added.update(each.augmented_by for each in new)
        if new and len(report.samples) < MOST_SAMPLES:
            report.samples.append(_sample(row, new[len(report.samples) % len(new)]))
        yield row
        yield from new


def _readable(rows: "Iterable[Example | Refused]", report: AugmentReport) -> Iterator[Example]:
    for row in rows:
        if isinstance(row, Example):
            yield row
            continue
        report.num_refused += 1
        if len(report.refused) < MOST_REFUSED:
            report.refused.append(row)


def _sample(row: Example, variant: Example) -> AugmentSample:
    pairs = zip(row.messages, variant.messages, strict=True)
    before, after = next((old, new) for old, new in pairs if old != new)
    return AugmentSample(variant.augmented_by, before.content, after.content)


def _nothing(report: AugmentReport) -> str:
    first = f" The first one: {report.refused[0]}" if report.refused else ""
    return f"none of {report.num_refused} rows can be read; nothing was written.{first}"
