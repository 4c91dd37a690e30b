"""Repetition: share of an answer's n-grams that it has written before.

Welleck et al. 2020, https://arxiv.org/abs/1908.04319, section 6.1 (seq-rep-n). Chinese counts by
character.
"""

from functools import lru_cache

from pydantic import Field

from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.metrics.token_f1 import TOKEN


@METRICS.register("repetition")
class RepetitionRate(Metric):
    """Share of word sequences that an answer repeats; high where the model is caught in a loop."""

    higher_is_better = False
    needs = frozenset()

    n: int = Field(4, ge=1)
    """Words in a sequence; longer ones are repeated less often."""

    @property
    def label(self) -> str:
        """See `Metric.label`."""
        return "repetition" if self.n == 4 else f"repetition:{self.n}"

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        sequences = ngrams(answer, self.n)
        return 1 - len(set(sequences)) / len(sequences) if sequences else 0.0


@lru_cache(maxsize=2**14)  # resamples of the rows ask for the same answers again and again
def ngrams(text: str, n: int) -> tuple[tuple[str, ...], ...]:
    """Sequences of n words, or Chinese characters, in order."""
    words = TOKEN.findall(text.casefold())
    return tuple(zip(*(words[start:] for start in range(n)), strict=False))
