"""Accuracy: share of answers that name the expected label or option."""

from collections.abc import Sequence

from llama_factory.evaluation.labels import find_label, score_labels, unfit_labels
from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.task_rows import AnsweredRow, ScoredRow, TaskRow


@METRICS.register("accuracy")
class Accuracy(Metric):
    """Share of answers that name the right label."""

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`; with no other label known, the answer must name this one."""
        return float(bool(find_label(answer, [expected])) or (not expected and not answer))

    def score_rows(self, rows: Sequence[AnsweredRow]) -> list[ScoredRow]:
        """See `Metric.score_rows`; labels are the row's options, or all that the rows expect."""
        return score_labels(rows)

    def unfit(self, rows: Sequence[TaskRow]) -> str:
        """See `Metric.unfit`."""
        return super().unfit(rows) or unfit_labels(rows)
