"""How sure a score is: 95 % intervals, and differences between two models on the same rows.

Fractions: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953. All else: the percentile
bootstrap over rows, Efron and Tibshirani 1993, chapters 13 and 16; differences are paired by row,
as in Koehn 2004, https://aclanthology.org/W04-3250.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Row = TypeVar("Row")
Statistic = Callable[[Array], Array]
"""[resamples, columns] means over rows -> [resamples] values."""

NUM_RESAMPLES = 2000
NUM_TOTALS = 300
"""Resamples of scores that are no mean of columns, each of which costs a pass over the rows."""
MAX_RESAMPLED = 10_000
"""Most rows of which such scores get an interval."""
Z = 1.959963984540054
"""Of a two-sided interval of 95 % of the normal distribution."""
NUMBERS_AT_ONCE = 1_000_000
"""Drawn numbers in memory together."""


@dataclass(frozen=True)
class Estimate:
    """A value and where it would lie with 95 % of all samples of as many rows.

    Attributes:
        value: over all rows.
        low: lower end of the interval; None where there are too few rows.
        high: upper end.
        count: rows.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval lies above 0: a difference is a gain."""
        return self.low is not None and self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval lies below 0."""
        return self.high is not None and self.high < 0

    def to_json(self) -> dict[str, Any]:
        """Plain values; none where there is no value."""
        value = None if math.isnan(self.value) else self.value
        return {"value": value, "low": self.low, "high": self.high, "count": self.count}


def mean(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean of one score a row: Wilson where every score is 0 or 1, else bootstrap."""
    if values and all(value in (0, 1) for value in values):
        return proportion(round(sum(values)), len(values))
    return bootstrap(np.asarray(values, dtype=float)[:, None], _only_column, seed=seed)


def perplexity(nats: Sequence[float], tokens: Sequence[int], *, seed: int = 0) -> Estimate:
    """exp of the mean negative log-likelihood of all tokens, resampled by row.

    Args:
        nats: negative log-likelihood of each row.
        tokens: tokens of each row.
        seed: of the resamples.
    """
    columns = np.stack([np.asarray(nats, float), np.asarray(tokens, float)], axis=1)
    return bootstrap(columns[columns[:, 1] > 0], _perplexity, seed=seed)


def difference(
    before: Sequence[float] | Array, after: Sequence[float] | Array, *, seed: int = 0
) -> Estimate:
    """Mean of after - before, row by row.

    Args:
        before: scores of one model.
        after: scores of the other on the same rows in the same order.
        seed: of the resamples.
    """
    changes = np.asarray(after, float) - np.asarray(before, float)
    return bootstrap(changes[:, None], _only_column, seed=seed)


def ratio(parts: Sequence[float], wholes: Sequence[float], *, seed: int = 0) -> Estimate:
    """Sum of parts over sum of wholes, resampled by row: the fraction of a score that is kept."""
    columns = np.stack([np.asarray(parts, float), np.asarray(wholes, float)], axis=1)
    return bootstrap(columns, _ratio, seed=seed)


def proportion(num_right: int, count: int) -> Estimate:
    """Fraction of rows that are right, with Wilson's interval."""
    fraction, spread = num_right / count, Z * Z / count
    middle = (fraction + spread / 2) / (1 + spread)
    half = Z * math.sqrt(fraction * (1 - fraction) / count + spread / (4 * count)) / (1 + spread)
    # at the ends rounding must not leave the value outside its own interval
    low, high = min(fraction, max(0.0, middle - half)), max(fraction, min(1.0, middle + half))
    return Estimate(fraction, low, high, count)


def bootstrap(rows: Array, statistic: Statistic, *, seed: int) -> Estimate:
    """A function of the columns' means, with the percentile interval over resampled rows.

    Args:
        rows: [rows, columns].
        statistic: from means to the value.
        seed: same rows and seed, same interval.
    """
    count = len(rows)
    if not count:
        return Estimate(math.nan, None, None, 0)
    value = float(statistic(rows.mean(axis=0, keepdims=True))[0])
    if count == 1:
        return Estimate(value, None, None, 1)
    (drawn,) = resampled([rows], seed=seed)
    return percentiles(value, statistic(drawn), count)


def resampled(groups: Sequence[Array], *, seed: int = 0) -> list[Array]:
    """Means of the columns over resampled rows: the rows of each group are drawn on their own.

    Args:
        groups: [rows, columns] each.
        seed: same rows and seed, same draws.

    Returns:
        [NUM_RESAMPLES, columns] each.
    """
    rng = np.random.default_rng(seed)
    return [_resampled_means(rows, rng) for rows in groups]


def of_rows(rows: Sequence[Row], total: Callable[[Sequence[Row]], float]) -> Estimate:
    """Any function of whole rows, with the percentile interval over resampled rows.

    Args:
        rows: scored rows; for a difference, pairs of them.
        total: its value over some rows.

    Returns:
        Without an interval above MAX_RESAMPLED rows: hundreds of totals over them take hours.
    """
    if not rows:
        return Estimate(math.nan, None, None, 0)
    value = total(rows)
    if not 1 < len(rows) <= MAX_RESAMPLED:
        return Estimate(value, None, None, len(rows))
    rng = np.random.default_rng(0)
    picks = (rng.integers(0, len(rows), size=len(rows)) for _ in range(NUM_TOTALS))
    drawn = np.array([total([rows[i] for i in pick]) for pick in picks])
    return percentiles(value, drawn, len(rows))


def percentiles(value: float, drawn: Array, count: int) -> Estimate:
    """A value with the middle 95 % of its resamples.

    Args:
        value: over all rows.
        drawn: [resamples]; those that are not finite are left out.
        count: rows.
    """
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn):
        return Estimate(value, None, None, count)
    low, high = np.percentile(drawn, (2.5, 97.5))
    # with few rows the resamples are skewed: the value must not lie outside its own interval
    return Estimate(value, min(value, float(low)), max(value, float(high)), count)


def _resampled_means(rows: Array, rng: np.random.Generator) -> Array:
    """[NUM_RESAMPLES, columns], in pieces that fit into memory."""
    count = len(rows)
    at_once = max(1, NUMBERS_AT_ONCE // count)
    parts = []
    for start in range(0, NUM_RESAMPLES, at_once):
        size = min(at_once, NUM_RESAMPLES - start)
        chosen = rng.integers(0, count, size=(size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count)
        parts.append(times @ rows / count)  # how often each row was drawn
    return np.concatenate(parts)


def _only_column(means: Array) -> Array:
    return means[:, 0]


def _perplexity(means: Array) -> Array:
    return np.exp(means[:, 0] / means[:, 1])


def _ratio(means: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(means[:, 0], means[:, 1])
