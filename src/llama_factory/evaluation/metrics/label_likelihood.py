"""Label likelihood: whether the model finds the expected option likelier than the others.

The option with the greatest summed log-probability of its tokens, the end token among them, so that
an option that begins like a longer one has no advantage.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_factory.evaluation.labels import same, unfit_labels
from llama_factory.evaluation.metrics import METRICS, ModelMetric
from llama_factory.evaluation.task_rows import ScoredRow, TaskRow

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel


@METRICS.register("label_likelihood")
class LabelLikelihood(ModelMetric):
    """Share of rows whose expected option is the likeliest one; needs no answer in the format."""

    needs = frozenset({"answer", "options"})

    def measure(
        self, model: "AdaptedModel", rows: Sequence[TaskRow], *, batch_tokens: int
    ) -> list[ScoredRow]:
        """See `ModelMetric.measure`; a row's answer is the likeliest option."""
        from llama_factory.evaluation.likelihood import option_likelihoods

        log_probs = option_likelihoods(model, rows, batch_tokens=batch_tokens)
        return [_scored(row, each) for row, each in zip(rows, log_probs, strict=True)]

    def unfit(self, rows: Sequence[TaskRow]) -> str:
        """See `Metric.unfit`."""
        return super().unfit(rows) or unfit_labels(rows)


def _scored(row: TaskRow, log_probs: Sequence[float]) -> ScoredRow:
    if not log_probs:
        return ScoredRow(row.expected, "", math.nan, options=row.options)
    likeliest = row.options[max(range(len(log_probs)), key=log_probs.__getitem__)]
    right = float(same(likeliest, row.expected))
    return ScoredRow(row.expected, likeliest, right, options=row.options)
