"""chrF: F-score over character n-grams, for languages whose words change their form.

Popović 2015, https://aclanthology.org/W15-3049, with n = 1 to 6 and beta = 2 as in sacreBLEU, over
100. Spaces do not count. The counts are our own, so that resamples are summed and not recounted.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.task_rows import ScoredRow, rows_with_scores

ORDERS = range(1, 7)
BETA = 2.0


@METRICS.register("chrf")
class Chrf(Metric):
    """Overlap of character sequences, counted over all answers together."""

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        if "".join(expected.split()) == "".join(answer.split()):
            return 1.0
        return _f_score(_counts(expected, answer))

    def total(self, rows: Sequence[ScoredRow]) -> float:
        """See `Metric.total`."""
        counted = [_counts(row.expected, row.answer) for row in rows_with_scores(rows)]
        sums = [sum(column) for column in zip(*counted, strict=True)]
        return _f_score(sums) if sums else math.nan


@lru_cache(maxsize=2**16)
def _counts(expected: str, answer: str) -> tuple[int, ...]:
    """For each n: n-grams of the answer, of the expected text, and of both."""
    counts: list[int] = []
    for order in ORDERS:
        given, wanted = (_ngrams(text, order) for text in (answer, expected))
        shared = (given & wanted).total()
        counts += (given.total() if wanted else 0, wanted.total(), shared)
    return tuple(counts)


def _ngrams(text: str, order: int) -> Counter[str]:
    letters = "".join(text.split())
    return Counter(letters[i : i + order] for i in range(len(letters) - order + 1))


def _f_score(counts: Sequence[int]) -> float:
    """F of the mean precision and the mean recall, over the n that both sides have."""
    triples = [counts[i : i + 3] for i in range(0, len(counts), 3)]
    used = [(both / given, both / wanted) for given, wanted, both in triples if given and wanted]
    if not any(precision for precision, _ in used):
        return 0.0
    precision, recall = (sum(column) / len(used) for column in zip(*used, strict=True))
    return (1 + BETA**2) * precision * recall / (BETA**2 * precision + recall)
