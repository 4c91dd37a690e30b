"""Whether a new version may answer users, with the reasons. A pure function of scores and rows."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from llama_factory.core.sentences import listed
from llama_factory.core.types import EvalReport
from llama_factory.evaluation import wording
from llama_factory.evaluation.complaints import ComplaintReport
from llama_factory.rounds import gate_sentences as texts
from llama_factory.rounds import questions
from llama_factory.rounds.check import GENERAL, KEPT, NO_ROWS, ROUNDING, Check, GateEvidence
from llama_factory.rounds.settings import GateSettings, WhenUnsure

HELD_OUT = "held_out"
"""The question that fails where no row shows whether anything was learned."""
COMPLAINTS = "complaints"
"""The question that only `gate.min_complaints` asks."""


@dataclass(frozen=True)
class Verdict:
    """All checks of a version; it is released only if every one passed.

    A version is held, so that a person decides, where nothing failed and rows are missing: none
    shows what it learned, or they are too few to tell and `when_unsure` is `hold`.

    Attributes:
        checks: in the order in which they are shown.
        when_unsure: what `gate.when_unsure` was.
    """

    checks: tuple[Check, ...]
    when_unsure: WhenUnsure = "point_estimate"

    @property
    def is_promoted(self) -> bool:
        """Whether the version is released."""
        return all(check.passed for check in self.checks)

    @property
    def summary(self) -> str:
        """One line: promoted, or what failed."""
        failed = [check.reason for check in self._failed]
        if failed:
            return listed(failed)
        unsure = [check.reason for check in self.undecided] if self.waits_for_canary else []
        return listed([texts.ALL_PASSED(), *unsure])

    @property
    def is_held(self) -> bool:
        """Whether all that keeps it back is that rows are missing."""
        return not self.is_promoted and all(map(self._lacks_rows, self._failed))

    @property
    def leans_to_refusal(self) -> bool:
        """Whether a check failed, or would fail by its point estimate."""
        return any(
            not (check.likely if check.undecided else check.name == HELD_OUT)
            for check in self._failed
        )

    @property
    def undecided(self) -> tuple[Check, ...]:
        """The checks whose rows are too few to tell."""
        return tuple(check for check in self.checks if check.undecided)

    @property
    def waits_for_canary(self) -> bool:
        """Whether it passed with checks that only a canary may decide."""
        is_unsure = self.when_unsure == "promote_behind_canary" and bool(self.undecided)
        return self.is_promoted and is_unsure

    def under(self, policy: WhenUnsure) -> "Verdict":
        """What it would be where another policy decides about undecided checks."""
        checks = (
            replace(check, passed=check.likely and policy != "hold") if check.undecided else check
            for check in self.checks
        )
        return Verdict(tuple(checks), policy)

    @property
    def _failed(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def _lacks_rows(self, check: Check) -> bool:
        return check.name == HELD_OUT or (check.undecided and self.when_unsure == "hold")

    @property
    def word(self) -> str:
        """`promoted`, `held` or `refused`."""
        return wording.verdict(promoted=self.is_promoted, held=self.is_held)

    @property
    def has_forgotten(self) -> bool:
        """Whether something that the parent could do was lost."""
        return any(not check.passed for check in self.checks if check.name in (KEPT, GENERAL))

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        values: dict[str, Any] = {
            "promoted": self.is_promoted,
            "held": self.is_held,
            "checks": [check.to_json() for check in self.checks],
        }
        return values | ({"when_unsure": self.when_unsure} if self.undecided else {})


def decide(
    after: EvalReport,
    before: EvalReport,
    *,
    new: Collection[str] | None,
    base_guard: float,
    settings: GateSettings,
    evidence: GateEvidence = NO_ROWS,
) -> Verdict:
    """Judge a new version.

    Args:
        after: the new version on all tasks.
        before: its parent on the same tasks, old and new.
        new: names of the tasks that this round taught and held rows out of; none where its groups
            are too small to give up a row, and None where it had nothing to teach.
        base_guard: the base model's perplexity on the guard.
        settings: the limits.
        evidence: the rows behind the scores. Where they are not known the scores alone decide.
    """
    own = [name for name in after.tasks if name in (new or ())]
    old = [name for name in after.tasks if name not in own]
    pairs = {name: (before.tasks[name], after.tasks[name]) for name in [*own, *old]}
    checks = [questions.learned(*pairs[name], evidence.rows.get(name), settings) for name in own]
    checks += questions.kept([pairs[name] for name in old], evidence.rows, settings)
    if new is not None and not own:
        checks.append(Check(HELD_OUT, False, texts.NOTHING_HELD_OUT))
    checks.append(questions.general(after.guard_perplexity, base_guard, evidence.drift, settings))
    return Verdict(tuple(checks), settings.when_unsure)


def with_complaints(
    verdict: Verdict, complaints: ComplaintReport, settings: GateSettings
) -> Verdict:
    """The verdict with the check of complaints, where `min_complaints` asks for it.

    A round of which nothing was held out is then judged by them.
    """
    num, wanted = len(complaints.answered), settings.min_complaints
    if wanted is None or not num:
        return verdict
    passed = complaints.num_right / num >= wanted - ROUNDING
    many = texts.COMPLAINTS_ENOUGH if passed else texts.COMPLAINTS_TOO_FEW
    one = texts.ONE_COMPLAINT_ENOUGH if passed else texts.ONE_COMPLAINT_TOO_FEW
    counts = {"right": complaints.num_right, "before": complaints.num_right_before}
    limit = f"{wanted:.0%}"
    reason = one(**counts, wanted=limit) if num == 1 else many(**counts, count=num, wanted=limit)
    check = Check(COMPLAINTS, passed, reason)
    others = (each for each in verdict.checks if each.name != HELD_OUT)
    return Verdict((*others, check), verdict.when_unsure)


def read_verdict(report: dict[str, Any]) -> Verdict | None:
    """The verdict in a version's report; the base version has none."""
    saved = report.get("verdict")
    if not saved:
        return None
    checks = tuple(map(Check.from_json, saved["checks"]))
    return Verdict(checks, saved.get("when_unsure", "point_estimate"))
