"""Token F1: harmonic mean of precision and recall over the words two texts share.

Rajpurkar et al. 2016, section 6.1, https://arxiv.org/abs/1606.05250. Differs: articles are kept,
and Chinese, Japanese and Korean text counts by character, as it has no spaces.
"""

import re
from collections import Counter

from llama_factory.evaluation.metrics import METRICS, Metric

TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u9fff\uac00-\ud7af]+")


@METRICS.register("token_f1")
class TokenF1(Metric):
    """Overlap of words, 1 for the same words in any order."""

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        wanted, given = tokens(expected), tokens(answer)
        shared = (wanted & given).total()
        if shared == 0:
            return float(not wanted and not given)
        precision, recall = shared / given.total(), shared / wanted.total()
        return 2 * precision * recall / (precision + recall)


def tokens(text: str) -> Counter[str]:
    """Words and single Chinese, Japanese or Korean characters, lower case, no punctuation."""
    return Counter(TOKEN.findall(text.casefold()))
