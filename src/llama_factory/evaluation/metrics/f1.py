"""Macro and micro F1 over labels. An answer that names no label is nobody's false positive.

Macro: the mean over all labels that are expected or answered of 2 TP / (2 TP + FP + FN).
Micro: the same from the sums over labels; it is accuracy where every answer names a label, and
more where some name none.
"""

import math
from collections import Counter
from collections.abc import Sequence

from llama_factory.evaluation.labels import plain
from llama_factory.evaluation.metrics import METRICS
from llama_factory.evaluation.metrics.accuracy import Accuracy
from llama_factory.evaluation.task_rows import ScoredRow, rows_with_scores


@METRICS.register("macro_f1")
class MacroF1(Accuracy):
    """Mean of the labels' F1: rare labels count as much as frequent ones."""

    def total(self, rows: Sequence[ScoredRow]) -> float:
        """See `Metric.total`."""
        expected, answered, right = _counts(rows)
        labels = expected | answered
        shares = [2 * right[label] / (expected[label] + answered[label]) for label in labels]
        return sum(shares) / len(shares) if shares else math.nan


@METRICS.register("micro_f1")
class MicroF1(Accuracy):
    """F1 over all rows: frequent labels count more."""

    def total(self, rows: Sequence[ScoredRow]) -> float:
        """See `Metric.total`."""
        expected, answered, right = _counts(rows)
        num_labels = expected.total() + answered.total()
        return 2 * right.total() / num_labels if num_labels else math.nan


def _counts(rows: Sequence[ScoredRow]) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """How often each label is expected, answered, and both."""
    rows = rows_with_scores(rows)
    expected = Counter(plain(row.expected) for row in rows)
    answered = Counter(plain(row.answer) for row in rows if row.answer)
    right = Counter(plain(row.expected) for row in rows if row.score == 1)
    return expected, answered, right
