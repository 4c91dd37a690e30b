"""Whether a new version may answer users, with the reasons. A pure function of the scores."""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llama_factory.core.types import EvalReport, TaskScores
from llama_factory.data.selection import FEWEST_ROWS_TO_SPLIT
from llama_factory.evaluation import wording
from llama_factory.evaluation.complaints import ComplaintReport
from llama_factory.evaluation.statistics import Estimate
from llama_factory.rounds.settings import GateSettings

LEARNED, KEPT, GENERAL, HELD_OUT = "learned", "kept", "general", "held_out"
"""The gate's questions. The last one fails where no row shows whether anything was learned."""
COMPLAINTS = "complaints"
"""The question that only `gate.min_complaints` asks."""

NOTHING_HELD_OUT = (
    "no row of this round was held out (a group gives up rows to test from "
    f"{FEWEST_ROWS_TO_SPLIT} rows on), so nothing shows what it learned. Look at it and promote it "
    "by hand; or add rows, or questions with their answers in NAME.test.jsonl, and learn again"
)

ROUNDING = 1e-9
"""Scores are fractions of rows in floating point, where 0.4 - 0.1 is above 0.3."""


@dataclass(frozen=True)
class Check:
    """One question of the gate: `name`, whether it `passed`, and the numbers that say why."""

    name: str
    passed: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """All checks of a version; it is released only if every one passed.

    A version whose only failure is that no row shows what it learned is held: a person decides.
    """

    checks: tuple[Check, ...]

    @property
    def is_promoted(self) -> bool:
        """Whether the version is released."""
        return all(check.passed for check in self.checks)

    @property
    def summary(self) -> str:
        """One line: promoted, or what failed."""
        failed = [check.reason for check in self.checks if not check.passed]
        return "; ".join(failed) if failed else "all checks passed"

    @property
    def is_held(self) -> bool:
        """Whether all that failed is that no row was held out to show what was learned."""
        return {check.name for check in self.checks if not check.passed} == {HELD_OUT}

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
        return {
            "promoted": self.is_promoted,
            "held": self.is_held,
            "checks": [asdict(check) for check in self.checks],
        }


def decide(
    after: EvalReport,
    before: EvalReport,
    *,
    new: Collection[str] | None,
    base_guard: float,
    settings: GateSettings,
    changes: Mapping[str, Estimate] | None = None,
) -> Verdict:
    """Judge a new version.

    Args:
        after: the new version on all tasks.
        before: its parent on the same tasks, old and new.
        new: names of the tasks that this round taught and held rows out of; none where its groups
            are too small to give up a row, and None where it had nothing to teach.
        base_guard: the base model's perplexity on the guard.
        settings: the limits.
        changes: of the metric by task with intervals, where answers are known row by row; they
            are added to the reasons. The scores alone decide.
    """
    own = [name for name in after.tasks if name in (new or ())]
    old = [name for name in after.tasks if name not in own]
    checks = []
    for name in [*own, *old]:
        check = _learned if name in own else _kept
        scores = before.tasks[name], after.tasks[name]
        change = _describe_change(*scores, settings.metric, (changes or {}).get(name))
        checks.append(check(*scores, settings, change))
    if new is not None and not own:
        checks.append(Check(HELD_OUT, False, NOTHING_HELD_OUT))
    return Verdict((*checks, _general(after.guard_perplexity, base_guard, settings)))


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
    sign = "at least" if passed else "fewer than"
    check = Check(COMPLAINTS, passed, f"{complaints.sentence}, {sign} {wanted:.0%} (taught rows)")
    others = (each for each in verdict.checks if each.name != HELD_OUT)
    return Verdict((*others, check))


def read_verdict(report: dict[str, Any]) -> Verdict | None:
    """The verdict in a version's report; the base version has none."""
    saved = report.get("verdict")
    return Verdict(tuple(Check(**check) for check in saved["checks"])) if saved else None


def _describe_change(
    before: TaskScores, after: TaskScores, metric: str, change: Estimate | None
) -> str:
    """`token_f1 0.80 -> 0.72 (95 % of the change: -0.20 – 0.03, 40 rows)`; "" without a score."""
    if metric not in after.scores:
        return ""
    text = f"{metric} {before.scores[metric]:.2f} -> {after.scores[metric]:.2f}"
    between = wording.interval(change)
    return text + (f" (95 % of the change: {between}, {after.count} rows)" if between else "")


def _is_within(before: float, after: float, max_drop: float) -> bool:
    """Whether a score fell by no more than the tolerance; one that is no number did not pass."""
    return after >= before - max_drop - ROUNDING


def _learned(before: TaskScores, after: TaskScores, settings: GateSettings, change: str) -> Check:
    """New rows: their answers became likelier and the metric, if they have one, did not fall."""
    perplexity = before.scores["perplexity"], after.scores["perplexity"]
    passed = perplexity[1] < perplexity[0]
    reason = f"{after.task} (new): perplexity {perplexity[0]:.2f} -> {perplexity[1]:.2f}"
    if settings.metric in after.scores:
        score = before.scores[settings.metric], after.scores[settings.metric]
        passed = passed and _is_within(*score, settings.max_drop)
        reason += f", {change}"
    return Check(LEARNED, passed, reason + ("" if passed else ", not improved"))


def _kept(before: TaskScores, after: TaskScores, settings: GateSettings, change: str) -> Check:
    """Old rows: the metric did not fall by more than the tolerance."""
    if settings.metric not in after.scores:
        return _kept_text(before, after, settings)
    score = before.scores[settings.metric], after.scores[settings.metric]
    passed = _is_within(*score, settings.max_drop)
    sign = "within" if passed else "more than"
    reason = f"{after.task} (old): {change}, {sign} the allowed drop of {settings.max_drop:g}"
    return Check(KEPT, passed, reason)


def _kept_text(before: TaskScores, after: TaskScores, settings: GateSettings) -> Check:
    """Old plain text, which has no answers to score: its perplexity did not rise too far."""
    ratio = after.scores["perplexity"] / before.scores["perplexity"]
    passed = ratio <= settings.max_guard_ratio
    sign = "within" if passed else "above"
    reason = (
        f"{after.task} (old): perplexity x {ratio:.2f}, {sign} the limit of x "
        f"{settings.max_guard_ratio:g}"
    )
    return Check(KEPT, passed, reason)


def _general(guard: float | None, base_guard: float, settings: GateSettings) -> Check:
    """General ability: perplexity on the guard stays near the base model's."""
    ratio = (guard or float("nan")) / base_guard
    passed = ratio <= settings.max_guard_ratio
    sign = "within" if passed else "above"
    reason = f"general perplexity x {ratio:.2f}, {sign} the limit of x {settings.max_guard_ratio:g}"
    return Check(GENERAL, passed, reason)
