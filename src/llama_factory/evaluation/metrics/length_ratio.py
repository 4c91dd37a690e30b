"""Length: how near the answer's length is to the expected one's, whatever its words."""

from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.metrics.token_f1 import tokens


@METRICS.register("length")
class LengthRatio(Metric):
    """The shorter text's length over the longer one's, in words or Chinese characters."""

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        shorter, longer = sorted(tokens(text).total() for text in (expected, answer))
        return shorter / longer if longer else 1.0
