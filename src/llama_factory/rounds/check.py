"""One question of the gate as it was answered, the rows that it is asked on, and its limit."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.core.sentences import KEPT as KEPT_KINDS
from llama_factory.core.sentences import keep_kinds, restore_kinds
from llama_factory.evaluation.drift import RowDrift
from llama_factory.evaluation.paired_rows import PairedRows
from llama_factory.evaluation.paired_tests import Outcome
from llama_factory.rounds import gate_sentences as texts
from llama_factory.rounds.settings import GateSettings

LEARNED, KEPT, GENERAL = "learned", "kept", "general"
"""What was taught is known, what was known is kept, and general ability too."""
ROUNDING = 1e-9
"""Scores are fractions of rows in floating point, where 0.4 - 0.1 is above 0.3."""


@dataclass(frozen=True)
class Check:
    """One question of the gate.

    Attributes:
        name: of the question.
        passed: whether it lets the version through; of an undecided one `gate.when_unsure` says so.
        reason: the numbers that say why.
        undecided: whether the rows are too few to tell.
        likely: whether an undecided one would pass by its point estimate.
        rows: that an undecided one was asked on.
        rows_needed: how many would likely decide; None where no number is known to.
    """

    name: str
    passed: bool
    reason: str
    undecided: bool = False
    likely: bool = True
    rows: int = 0
    rows_needed: int | None = None

    @property
    def outcome(self) -> Outcome:
        """Passed, failed, or undecided."""
        return "undecided" if self.undecided else "passed" if self.passed else "failed"

    def to_json(self) -> dict[str, Any]:
        """Plain values; what only undecided checks have is left out of others."""
        values = keep_kinds(asdict(self))
        short = {name: values[name] for name in _ALWAYS if name in values}
        return values if self.undecided else short

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Check":
        """The inverse of `to_json`."""
        return Check(**restore_kinds(values))


_ALWAYS = ("name", "passed", "reason", KEPT_KINDS)


@dataclass(frozen=True)
class GateEvidence:
    """The rows behind the scores that the gate judges.

    Attributes:
        rows: of the parent and the new version, by task.
        drift: of the new version and the base model on the rows of the guard.
    """

    rows: Mapping[str, PairedRows] = field(default_factory=dict)
    drift: Sequence[RowDrift] = ()


NO_ROWS = GateEvidence()
"""Where only scores are known."""


@dataclass(frozen=True)
class Tested:
    """What a test came to, beside what the point estimate says; without rows the latter decides."""

    likely: bool
    outcome: Outcome | None = None
    rows: int = 0
    rows_needed: int | None = None

    @property
    def decided(self) -> Outcome:
        """A test never contradicts the point estimate."""
        if self.outcome is None:
            return "passed" if self.likely else "failed"
        agrees = self.outcome == ("passed" if self.likely else "failed")
        return self.outcome if agrees else "undecided"

    def check(self, name: str, reason: str, settings: GateSettings) -> Check:
        """The check that it makes."""
        if self.decided != "undecided":
            return Check(name, self.decided == "passed", reason)
        passed = self.likely and settings.when_unsure != "hold"
        why = _too_few_rows(self.rows, self.rows_needed)
        told = texts.TOO_FEW_ROWS(text=reason, why=why)
        return Check(name, passed, told, True, self.likely, self.rows, self.rows_needed)


def _too_few_rows(count: int, needed: int | None) -> str:
    """What is noted of a test that its rows do not decide."""
    rows = texts.ONE_ROW() if count == 1 else texts.ROWS(count=count)
    if needed is None:
        return texts.CANNOT_EVER(rows=rows)
    return texts.CANNOT_TELL(rows=rows, needed=f"{needed:,}")


def limit_of(task: str, settings: GateSettings) -> float:
    """How far the metric may fall on a task: the limit of its group, else of all."""
    return settings.limits.get(group_of(task), settings.max_drop)


def unknown_limits(settings: GateSettings, groups: Collection[str]) -> list[str]:
    """What is said of limits for groups that no task has: misspelt, renamed, or to come."""
    return [
        f"gate.limits: no task belongs to group '{name}', so its limit of {limit:g} holds nothing."
        f"{suggest(name, groups)}"
        for name, limit in settings.limits.items()
        if name not in groups
    ]


def group_of(task: str) -> str:
    """The group in the name of a task such as `v0001 faq`."""
    return task.partition(" ")[2] or task
