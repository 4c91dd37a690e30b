"""Whether two models differ by more than a margin, tested on the rows that both answered.

A test has three outcomes: yes, no, and too few rows to tell. Bounds are one-sided.

Scores of rows lie between 0 and 1. Their mean change is tested with one row that gained 1 and one
that lost 1 added, as in Bonett and Price 2012, "Adjusted Wald Confidence Interval for a Difference
of Binomial Proportions Based on Paired Data", https://doi.org/10.3102/1076998611411915 (theirs is
for scores of 0 and 1; graded scores are treated likewise). So rows without any change do not pass
for certain when they are few. Values without limits, such as nats, are tested with Student's t.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np

from llama_factory.evaluation.statistics import Array

Outcome = Literal["passed", "failed", "undecided"]
ADDED_ROWS = 2
"""One that gained 1 and one that lost 1."""
POWER = 0.8
"""How likely the number of rows that is named as enough would decide."""
MOST_ROWS = 1_000_000
"""No more rows are ever asked for."""
FEWEST_ROWS = 2
"""Of which a spread can be computed."""


@dataclass(frozen=True)
class Bounds:
    """A mean over rows with its one-sided bounds.

    Attributes:
        value: over the rows.
        low: with the wanted confidence the true mean is not below it; None with too few rows.
        high: with the same confidence it is not above it.
        count: rows.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    def outcome(self, limit: float) -> Outcome:
        """Whether the true mean lies above a limit; exactly on it is above."""
        if math.isnan(self.value):
            return "failed"
        if self.low is None or self.high is None:
            return "undecided"
        if self.low >= limit:
            return "passed"
        return "failed" if self.high < limit else "undecided"


def change_bounds(changes: Array, confidence: float) -> Bounds:
    """The mean change of a score between 0 and 1.

    Args:
        changes: [rows] after - before.
        confidence: of each bound, such as 0.95.
    """
    count = len(changes)
    if not count:
        return Bounds(math.nan, None, None, 0)
    mean, error = _smoothed(float(changes.sum()), float(changes @ changes), count)
    half = NormalDist().inv_cdf(confidence) * error
    return Bounds(float(changes.mean()), mean - half, mean + half, count)


def p_below(changes: Array, limit: float) -> float:
    """How likely so low a mean change would be if the true one were exactly at the limit."""
    mean, error = _smoothed(float(changes.sum()), float(changes @ changes), len(changes))
    return NormalDist().cdf((mean - limit) / error)


def mean_bounds(values: Array, confidence: float) -> Bounds:
    """The mean of values without limits by Student's t; no bounds below two rows."""
    count = len(values)
    if not count:
        return Bounds(math.nan, None, None, 0)
    mean = float(values.mean())
    if count < FEWEST_ROWS or not math.isfinite(mean):
        return Bounds(mean, None, None, count)
    half = student(confidence, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return Bounds(mean, mean - half, mean + half, count)


def ratio_bounds(parts: Array, wholes: Array, confidence: float) -> Bounds:
    """Sum of parts over sum of wholes, such as nats a token, by the delta method.

    Args:
        parts: [rows].
        wholes: [rows], not negative; rows of 0 are left out.
        confidence: of each bound.
    """
    fits = wholes > 0
    parts, wholes = parts[fits], wholes[fits]
    count = len(parts)
    if not count:
        return Bounds(math.nan, None, None, 0)
    value = float(parts.sum() / wholes.sum())
    if count < FEWEST_ROWS or not math.isfinite(value):
        return Bounds(value, None, None, count)
    errors = (parts - value * wholes) / wholes.mean()
    half = student(confidence, count - 1) * float(errors.std(ddof=1)) / math.sqrt(count)
    return Bounds(value, value - half, value + half, count)


def student(confidence: float, freedom: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, else Hill's expansion.

    Abramowitz and Stegun 1964, 26.7.5; from 3 degrees of freedom on within 0.5 % at 95 %.
    """
    if freedom == 1:
        return math.tan(math.pi * (confidence - 0.5))
    if freedom == 2:
        spread = 4 * confidence * (1 - confidence)
        return 2 * (confidence - 0.5) * math.sqrt(2 / spread)
    z = NormalDist().inv_cdf(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def rows_needed(changes: Array, limit: float, confidence: float) -> int | None:
    """How many rows like these would likely tell on which side of a limit the change lies.

    Returns:
        With the changes seen so far as the truth, enough for a chance of `POWER`; None where the
        mean lies on the limit itself, so that no number is enough.
    """
    count = len(changes)
    if not count:
        return None
    mean, square = float(changes.mean()), float(changes @ changes) / count
    wanted = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)

    def decides(rows: int) -> bool:
        middle, error = _smoothed(mean * rows, square * rows, rows)
        return abs(middle - limit) >= wanted * error

    return _fewest(decides, count)


def rows_needed_above(values: Array, limit: float, confidence: float) -> int | None:
    """The same for the mean of values without limits."""
    if len(values) < FEWEST_ROWS:
        return None
    wanted = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)
    distance, spread = abs(float(values.mean()) - limit), float(values.std(ddof=1))
    return _fewest(lambda rows: distance >= wanted * spread / math.sqrt(rows), len(values))


def holm(p_values: list[float]) -> list[float]:
    """Adjusted p-values of several tests, Holm 1979: https://www.jstor.org/stable/4615733."""
    order = np.argsort(p_values, kind="stable")
    adjusted, most, count = [0.0] * len(p_values), 0.0, len(p_values)
    for place, index in enumerate(order):
        most = max(most, min(1.0, (count - place) * p_values[index]))
        adjusted[index] = most
    return adjusted


def _smoothed(total: float, squares: float, count: int) -> tuple[float, float]:
    """Mean and standard error of changes with the two added rows, which sum to 0."""
    rows = count + ADDED_ROWS
    mean = total / rows
    variance = max((squares + ADDED_ROWS) / rows - mean * mean, 0.0)
    return mean, math.sqrt(variance / rows)


def _fewest(decides: Callable[[int], bool], count: int) -> int | None:
    """The fewest rows above `count` that decide, to two digits; None above `MOST_ROWS`."""
    high = count + 1
    while not decides(high):
        high *= 2
        if high > MOST_ROWS:
            return None
    low = max(count, high // 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    unit = 10 ** max(0, len(str(high)) - 2)
    return math.ceil(high / unit) * unit
