"""The questions that the gate asks of a version, each a test on rows with three outcomes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from llama_factory.core.types import TaskScores
from llama_factory.evaluation import paired_tests
from llama_factory.evaluation.drift import RowDrift
from llama_factory.evaluation.paired_rows import PairedRows
from llama_factory.evaluation.paired_tests import Bounds, Outcome
from llama_factory.evaluation.statistics import Array
from llama_factory.rounds import gate_sentences as texts
from llama_factory.rounds.check import (
    GENERAL,
    KEPT,
    LEARNED,
    ROUNDING,
    Check,
    Tested,
    limit_of,
)
from llama_factory.rounds.settings import GateSettings


def learned(
    before: TaskScores, after: TaskScores, rows: PairedRows | None, settings: GateSettings
) -> Check:
    """New rows: their answers became likelier, and the metric did not fall by too much."""
    perplexity = before.scores["perplexity"], after.scores["perplexity"]
    was, now = (f"{each:.2f}" for each in perplexity)
    reason = texts.NEW_TASK(task=after.task, before=was, after=now)
    tested = _likelier(perplexity, rows, settings)
    if settings.metric in after.scores:
        change = _described(before, after, rows, settings)
        reason = texts.AND_METRIC(text=reason, change=change)
        tested = _both(tested, _metric(before, after, rows, settings))
    told = reason if tested.likely else texts.NOT_IMPROVED(text=reason)
    return tested.check(LEARNED, told, settings)


def kept(
    pairs: Sequence[tuple[TaskScores, TaskScores]],
    rows: Mapping[str, PairedRows],
    settings: GateSettings,
) -> list[Check]:
    """Old rows of each task: not worse by more than its limit; then of all tasks together.

    That every task is kept needs no correction for their number: each has to pass. That one of
    them is lost is said of the worst of many, so there Holm's correction applies.
    """
    tests = [_of_old(*pair, rows.get(pair[1].task), settings) for pair in pairs]
    scored = [n for n, (_, after) in enumerate(pairs) if _has_scores(after, rows, settings)]
    tasks = [pairs[n][1].task for n in scored]
    for n, task, p_value in zip(scored, tasks, _p_lost(tasks, rows, settings), strict=True):
        if tests[n].outcome == "failed" and p_value > 1 - settings.confidence:
            tests[n] = _undecided(tests[n], rows[task], limit_of(task, settings))
    checks = []
    for n, (pair, tested) in enumerate(zip(pairs, tests, strict=True)):
        reason = _old_reason(*pair, rows, tested, settings)
        if len(scored) > 1 and n in scored and tested.decided == "failed":
            reason = texts.ONE_OF_MANY(text=reason, count=len(scored))
        checks.append(tested.check(KEPT, reason, settings))
    if len(scored) > 1:
        checks.append(_together([pairs[n] for n in scored], rows, settings))
    return checks


def general(
    guard: float | None, base_guard: float, drift: Sequence[RowDrift], settings: GateSettings
) -> Check:
    """General ability: perplexity on the guard stays near the base model's."""
    ratio = (guard or math.nan) / base_guard
    likely = ratio <= settings.max_guard_ratio
    known = [(d.nats - d.base_nats, d.tokens) for d in drift if d.base_nats is not None]
    tested = Tested(likely)
    shown: str = f"{ratio:.2f}"
    if known and len(known) == len(drift) and not math.isnan(ratio):
        moved, tokens = (np.array(each, dtype=float) for each in zip(*known, strict=True))
        bounds = paired_tests.ratio_bounds(-moved, tokens, settings.confidence)
        tested = _ratio_test(likely, bounds, settings)
        shown = _with_interval(shown, bounds, settings)
    kind = texts.GENERAL_WITHIN if likely else texts.GENERAL_BEYOND
    reason = kind(ratio=shown, limit=f"{settings.max_guard_ratio:g}")
    return tested.check(GENERAL, reason, settings)


def _likelier(
    perplexity: tuple[float, float], rows: PairedRows | None, settings: GateSettings
) -> Tested:
    likely = perplexity[1] < perplexity[0]
    if rows is None or not len(rows.nats):
        return Tested(likely)
    gained = rows.gained_nats
    bounds = paired_tests.mean_bounds(gained, settings.confidence)
    outcome: Outcome = bounds.outcome(np.nextafter(0.0, 1.0))
    needed = paired_tests.rows_needed_above(gained, 0.0, settings.confidence)
    return Tested(likely, outcome, len(gained), needed)


def _metric(
    before: TaskScores, after: TaskScores, rows: PairedRows | None, settings: GateSettings
) -> Tested:
    limit = limit_of(after.task, settings)
    scores = before.scores[settings.metric], after.scores[settings.metric]
    likely = scores[1] >= scores[0] - limit - ROUNDING
    if rows is None or not len(rows.scores) or not math.isfinite(scores[1] - scores[0]):
        return Tested(likely)
    bounds = paired_tests.change_bounds(rows.changes, settings.confidence)
    needed = paired_tests.rows_needed(rows.changes, -limit, settings.confidence)
    return Tested(likely, bounds.outcome(-limit - ROUNDING), len(rows.changes), needed)


def _both(nats: Tested, metric: Tested) -> Tested:
    """Likelihood decides; the metric, whose changes are coarse, only where it fell too far."""
    likely = nats.likely and metric.likely
    if nats.outcome is None or metric.outcome is None:
        return Tested(likely, None if likely else "failed")
    if "failed" in (nats.decided, metric.decided):
        return Tested(likely, "failed", nats.rows)
    if metric.likely:
        return Tested(likely, nats.outcome, nats.rows, nats.rows_needed)
    return Tested(likely, "undecided", metric.rows, metric.rows_needed)


def _of_old(
    before: TaskScores, after: TaskScores, rows: PairedRows | None, settings: GateSettings
) -> Tested:
    if settings.metric in after.scores:
        return _metric(before, after, rows, settings)
    ratio = after.scores["perplexity"] / before.scores["perplexity"]
    likely = ratio <= settings.max_guard_ratio
    if rows is None or not len(rows.nats) or math.isnan(ratio):
        return Tested(likely)
    gained, tokens = rows.gained_nats, rows.nats[:, 2]
    bounds = paired_tests.ratio_bounds(gained, tokens, settings.confidence)
    return _ratio_test(likely, bounds, settings)


def _ratio_test(likely: bool, bounds: Bounds, settings: GateSettings) -> Tested:
    """Whether perplexity rose by no more than `max_guard_ratio`; bounds are of nats gained."""
    outcome = bounds.outcome(-math.log(settings.max_guard_ratio) - ROUNDING)
    return Tested(likely, outcome, bounds.count)


def _together(
    pairs: Sequence[tuple[TaskScores, TaskScores]],
    rows: Mapping[str, PairedRows],
    settings: GateSettings,
) -> Check:
    """All old rows as one task; its limit is the mean of the tasks' limits over rows."""
    scores = np.concatenate([rows[after.task].scores for _, after in pairs])
    nats = np.concatenate([rows[after.task].nats for _, after in pairs])
    counts = [len(rows[after.task].scores) for _, after in pairs]
    limit = float(
        np.average([limit_of(after.task, settings) for _, after in pairs], weights=counts)
    )
    joined = PairedRows(scores, nats)
    means = (TaskScores("", len(scores), {settings.metric: float(m)}) for m in scores.mean(0))
    before, after = means
    same = settings.model_copy(update={"max_drop": limit, "limits": {}})
    tested = _metric(before, after, joined, same)
    change = _described(before, after, joined, settings)
    kind = texts.TOGETHER_WITHIN if tested.likely else texts.TOGETHER_BEYOND
    reason = kind(count=len(pairs), change=change, limit=f"{limit:.3g}")
    return tested.check(KEPT, reason, settings)


def _undecided(tested: Tested, rows: PairedRows, limit: float) -> Tested:
    """A loss that Holm's correction takes the certainty from."""
    needed = paired_tests.rows_needed(rows.changes, -limit, 0.99)
    return Tested(tested.likely, "undecided", tested.rows, needed)


def _p_lost(
    tasks: Sequence[str], rows: Mapping[str, PairedRows], settings: GateSettings
) -> list[float]:
    """How likely such losses would be where no task lost more than it may, after Holm."""
    changes = {task: rows[task].changes for task in tasks}
    limits = {task: limit_of(task, settings) for task in tasks}
    return paired_tests.holm([paired_tests.p_below(changes[t], -limits[t]) for t in tasks])


def _has_scores(after: TaskScores, rows: Mapping[str, PairedRows], settings: GateSettings) -> bool:
    known = rows.get(after.task)
    return known is not None and len(known.scores) > 0 and settings.metric in after.scores


def _old_reason(
    before: TaskScores,
    after: TaskScores,
    rows: Mapping[str, PairedRows],
    tested: Tested,
    settings: GateSettings,
) -> str:
    if settings.metric in after.scores:
        change = _described(before, after, rows.get(after.task), settings)
        limit = f"{limit_of(after.task, settings):g}"
        kind = texts.OLD_WITHIN if tested.likely else texts.OLD_BEYOND
        return kind(task=after.task, change=change, limit=limit)
    ratio = after.scores["perplexity"] / before.scores["perplexity"]
    kind = texts.OLD_RATIO_WITHIN if tested.likely else texts.OLD_RATIO_BEYOND
    return kind(task=after.task, ratio=f"{ratio:.2f}", limit=f"{settings.max_guard_ratio:g}")


def _described(
    before: TaskScores, after: TaskScores, rows: PairedRows | None, settings: GateSettings
) -> str:
    """`token_f1 0.80 -> 0.72 (90 % of the change: -0.20 – 0.03, 40 rows)`."""
    metric = settings.metric
    was, now = (f"{each.scores[metric]:.2f}" for each in (before, after))
    text = texts.CHANGE(metric=metric, before=was, after=now)
    changes: Array = rows.changes if rows is not None else np.zeros(0)
    bounds = paired_tests.change_bounds(changes, settings.confidence)
    if len(changes) < paired_tests.FEWEST_ROWS or bounds.low is None or bounds.high is None:
        return text
    between = f"{max(bounds.low, -1.0):.2f} – {min(bounds.high, 1.0):.2f}"
    percent, rows_seen = _percent(settings), len(changes)
    return texts.CHANGE_BETWEEN(text=text, percent=percent, between=between, rows=rows_seen)


def _with_interval(ratio: str, bounds: Bounds, settings: GateSettings) -> str:
    if bounds.low is None or bounds.high is None:
        return ratio
    between = f"{math.exp(-bounds.high):.2f} – {math.exp(-bounds.low):.2f}"
    percent = _percent(settings)
    return texts.RATIO_BETWEEN(ratio=ratio, percent=percent, between=between, rows=bounds.count)


def _percent(settings: GateSettings) -> str:
    """Of the interval between two one-sided bounds."""
    return f"{100 * (2 * settings.confidence - 1):.3g} %"
