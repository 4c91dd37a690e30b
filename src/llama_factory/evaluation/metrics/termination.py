"""Termination: whether an answer ended by itself, or was cut off at the longest length."""

from collections.abc import Sequence

from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.task_rows import AnsweredRow, ScoredRow


@METRICS.register("termination")
class Termination(Metric):
    """Share of answers that ended with the end token."""

    needs = frozenset()

    def score_rows(self, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
        """See `Metric.score_rows`."""
        return [ScoredRow(each.row.expected, each.text, float(not each.is_cut)) for each in rows]
