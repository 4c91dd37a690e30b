"""Exact match: 1 where the answer is the expected text, up to case and white space."""

from llama_factory.evaluation.metrics import METRICS, Metric


@METRICS.register("exact_match")
class ExactMatch(Metric):
    """Share of answers that are right word for word."""

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        return float(normalised(expected) == normalised(answer))


def normalised(text: str) -> str:
    """Lower case, single spaces."""
    return " ".join(text.casefold().split())
