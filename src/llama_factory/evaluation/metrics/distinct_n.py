"""Distinct-n: different n-grams over all n-grams of all answers: low where answers are alike.

Li et al. 2016, https://arxiv.org/abs/1510.03055, section 5.1. Chinese counts by character.
"""

from collections.abc import Sequence
from itertools import chain

from pydantic import Field

from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.metrics.repetition_rate import ngrams
from llama_factory.evaluation.task_rows import ScoredRow, rows_with_scores


@METRICS.register("distinct_n")
class DistinctN(Metric):
    """Share of different word sequences in all answers together."""

    needs = frozenset()

    n: int = Field(2, ge=1)
    """Words in a sequence; longer ones are rarer, so that the share is higher."""

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return "distinct_n" if self.n == 2 else f"distinct_n:{self.n}"

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`; of this answer alone."""
        return _distinct(ngrams(answer, self.n))

    def total(self, rows: Sequence[ScoredRow]) -> float:
        """See `Metric.total`."""
        sequences = [ngrams(row.answer, self.n) for row in rows_with_scores(rows)]
        return _distinct(list(chain.from_iterable(sequences)))


def _distinct(sequences: Sequence[tuple[str, ...]]) -> float:
    return len(set(sequences)) / len(sequences) if sequences else 1.0
