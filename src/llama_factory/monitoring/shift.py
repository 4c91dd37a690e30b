"""How far new rows are from those before, and how far mere chance would take them.

The population stability index, PSI = sum (p - q) ln(p / q) over categories: twice the divergence of
Jeffreys 1946. Its usual limits, 0.1 and 0.25, hold for no number of rows in particular: 40 rows of
the same kind pass 0.25 easily. Limits here come from resampling the rows that were there before.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from llama_factory.evaluation.statistics import Array
from llama_factory.monitoring import sentences
from llama_factory.monitoring.profile import RowTraits

FALSE_ALARM = 0.002
"""How often rows like those before are called shifted, by each trait."""
NUM_DRAWS = 2000
NUM_WORD_DRAWS = 200
SMOOTHING = 0.5
"""Rows added to each category, so that an unseen one is no infinity."""
HABIT = 1.5
"""How far above the median of its own past a series has to be: where every round brings a topic of
its own, that is no alarm."""
FEWEST_PAST = 3
FEWEST_ROWS = 5
"""Fewer new rows are like anything."""
MOST_LISTED = 3
UNSEEN = "(unseen)"
"""A category that no row has yet, so that rows which are all alike are not the only possible."""


@dataclass(frozen=True)
class Shift:
    """New rows beside earlier ones in one trait.

    Attributes:
        value: the distance.
        limit: which chance, and the series' own past, hardly ever exceed.
        words: the categories that moved most.
    """

    value: float
    limit: float
    words: str

    @property
    def is_alert(self) -> bool:
        """Whether chance does not explain it."""
        return self.value > self.limit


def psi(before: Array, after: Array) -> Array:
    """PSI of counts by category: [..., categories] each; 0 where there are no categories."""
    old = before + SMOOTHING
    new = after + SMOOTHING
    p = old / old.sum(-1, keepdims=True)
    q = new / new.sum(-1, keepdims=True)
    distance: Array = ((q - p) * np.log(q / p)).sum(-1)
    return distance


def category_shift(before: Sequence[str], after: Sequence[str], past: Sequence[float]) -> Shift:
    """How far the categories of new rows are from those of earlier ones.

    Args:
        before: the category of each earlier row.
        after: of each new row.
        past: earlier values of the same series.
    """
    names = [*dict.fromkeys([*before, *after]), UNSEEN]
    old, new = (_counts(side, names) for side in (before, after))
    value = float(psi(old, new))
    rng = np.random.default_rng(0)
    p = (old + SMOOTHING) / (old + SMOOTHING).sum()
    drawn = [rng.multinomial(len(side), p, NUM_DRAWS).astype(float) for side in (before, after)]
    by_chance = psi(drawn[0], drawn[1])
    limit = float(np.quantile(by_chance, 1 - FALSE_ALARM))
    return Shift(value, max(limit, _habit(past)), _moved(names, old, new))


def unseen_words(
    before: Sequence[RowTraits], after: Sequence[RowTraits], past: Sequence[float]
) -> Shift:
    """Which fraction of a new row's words was in no earlier row, as a mean over the rows."""
    known = Counter(word for row in before for word in row.words)
    words = {word for row in after for word in row.words}
    unseen = sorted(word for word in words if word not in known)
    value = _mean_unseen(after, frozenset(unseen))
    limit = _unseen_by_chance(before, known, len(after))
    told = sentences.UNSEEN_WORDS(count=len(unseen), all=len(words))
    if unseen:
        told = sentences.SUCH_AS(text=told, examples=", ".join(unseen[:MOST_LISTED]))
    return Shift(value, max(limit, _habit(past)), told)


def _mean_unseen(rows: Sequence[RowTraits], unseen: frozenset[str]) -> float:
    fractions = [len(row.words & unseen) / len(row.words) for row in rows if row.words]
    return float(np.mean(fractions)) if fractions else 0.0


def _unseen_by_chance(rows: Sequence[RowTraits], known: Counter[str], size: int) -> float:
    """The same for some of the earlier rows beside the others, at its highest.

    Half a row is added to the spread, so that one odd row is no alert where there was none.
    """
    rng = np.random.default_rng(0)
    taken = min(size, max(1, len(rows) // 2))
    means = []
    for _ in range(NUM_WORD_DRAWS):
        chosen = [rows[place] for place in rng.choice(len(rows), taken, replace=False)]
        counts = Counter(word for row in chosen for word in row.words)
        unseen = frozenset(word for word, count in counts.items() if known[word] == count)
        means.append(_mean_unseen(chosen, unseen))
    spread = math.sqrt(float(np.var(means)) + (SMOOTHING / size) ** 2)
    return float(np.mean(means)) + 3 * spread


def _habit(past: Sequence[float]) -> float:
    return HABIT * float(np.median(past)) if len(past) >= FEWEST_PAST else 0.0


def _counts(side: Sequence[str], names: Sequence[str]) -> Array:
    counts = Counter(side)
    return np.array([counts[name] for name in names], dtype=float)


def _moved(names: Sequence[str], before: Array, after: Array) -> str:
    """`zh 100 % (before: 2 %), en 0 % (before: 98 %)`."""
    p, q = before / before.sum(), after / after.sum()
    order = np.argsort(-np.abs(q - p), kind="stable")[:MOST_LISTED]
    told = [
        sentences.MOVED(name=names[n], now=f"{q[n]:.0%}", before=f"{p[n]:.0%}")
        for n in order
        if q[n] != p[n]
    ]
    if not told:
        return sentences.NO_DIFFERENCE()
    return reduce(lambda one, other: sentences.AND(one=one, other=other), told)
