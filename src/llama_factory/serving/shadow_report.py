"""What a candidate answered beside production, as numbers: the file of a version, its summary."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from llama_factory.core.records import read_records
from llama_factory.core.settings import Settings
from llama_factory.versions.workspace import Workspace


class ShadowSettings(Settings):
    """A candidate's answers beside production's, which nobody is given."""

    fraction: float = Field(0.0, ge=0, le=1)
    """Fraction of production's answers that a candidate gives too, while nobody waits. Higher shows
    sooner how alike the two are and computes more; 0 does nothing."""
    max_tokens_a_day: int = Field(100_000, ge=0)
    """Tokens of questions and answers that shadows may cost in a day (UTC). Higher compares more.
    """


@dataclass(frozen=True)
class ShadowSummary:
    """What a candidate answered beside production.

    Attributes:
        num_compared: pairs of answers.
        num_same: pairs with the same text.
        overlap: mean token F1 of a pair; None without pairs.
        length_ratio: tokens of the candidate's answers by those of production's.
        seconds_ratio: seconds, likewise; shadows run while little else does.
        num_tokens: that all of it cost.
        skipped: questions that were chosen and not compared, by reason.
    """

    num_compared: int
    num_same: int
    overlap: float | None
    length_ratio: float | None
    seconds_ratio: float | None
    num_tokens: int
    skipped: dict[str, int]

    @property
    def sentence(self) -> str:
        """`90 of 120 answers the same as production's, ...`."""
        missed = ", ".join(f"{count} {reason}" for reason, count in self.skipped.items())
        left_out = f"; not compared: {missed}" if missed else ""
        if self.overlap is None:
            return f"no answers compared{left_out}"
        return (
            f"{self.num_same} of {self.num_compared} answers the same as production's, token F1 "
            f"{self.overlap:.2f}, length x {self.length_ratio or 0:.2f}, time x "
            f"{self.seconds_ratio or 0:.2f}, {self.num_tokens} tokens{left_out}"
        )


def file_of(workspace: Workspace, version_id: str) -> Path:
    """Where the comparisons of a version lie, a line each."""
    return workspace.shadow / f"{version_id}.jsonl"


def read_summary(workspace: Workspace, version_id: str) -> ShadowSummary | None:
    """What a version answered beside production; None where it never did."""
    path = file_of(workspace, version_id)
    if not path.exists():
        return None
    lines = list(read_records(path, dict))
    pairs = [line for line in lines if "skipped" not in line]
    skipped = Counter(line["skipped"] for line in lines if "skipped" in line)
    num = len(pairs)
    return ShadowSummary(
        num,
        sum(pair["same"] for pair in pairs),
        sum(pair["overlap"] for pair in pairs) / num if num else None,
        _ratio(pairs, "tokens"),
        _ratio(pairs, "seconds"),
        sum(line["cost"] for line in lines),
        dict(skipped),
    )


def _ratio(pairs: list[dict[str, Any]], name: str) -> float | None:
    """Of sums: the candidate's by production's."""
    below = sum(pair["production"][name] for pair in pairs)
    return sum(pair["candidate"][name] for pair in pairs) / below if below else None
