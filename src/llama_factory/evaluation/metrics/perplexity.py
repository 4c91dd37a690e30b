"""Perplexity of the expected answers: exp of the mean negative log-likelihood of their tokens."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_factory.evaluation.metrics import METRICS, ModelMetric
from llama_factory.evaluation.task_rows import ScoredRow, TaskRow, rows_with_scores

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel


@METRICS.register("perplexity")
class Perplexity(ModelMetric):
    """Perplexity of the expected answers; 1 where the model is certain of every token."""

    lowest = 1.0
    highest = math.inf
    higher_is_better = False
    needs = frozenset()

    def measure(
        self, model: "AdaptedModel", rows: Sequence[TaskRow], *, batch_tokens: int
    ) -> list[ScoredRow]:
        """See `ModelMetric.measure`; a row's weight is the number of its answer's tokens."""
        from llama_factory.evaluation.likelihood import row_likelihoods

        examples = [row.example for row in rows]
        likelihoods = row_likelihoods(model, examples, batch_tokens=batch_tokens)
        return [
            _scored(row, each.nats, each.tokens)
            for row, each in zip(rows, likelihoods, strict=True)
        ]

    def total(self, rows: Sequence[ScoredRow]) -> float:
        """See `Metric.total`; every token counts the same, so long answers count more."""
        rows = rows_with_scores(rows)
        num_tokens = sum(row.weight for row in rows)
        nats = sum(row.weight * math.log(row.score) for row in rows)
        return math.exp(nats / num_tokens) if num_tokens else math.nan


def _scored(row: TaskRow, nats: float, num_tokens: int) -> ScoredRow:
    score = math.exp(nats / num_tokens) if num_tokens else math.nan
    return ScoredRow(row.expected, "", score, weight=num_tokens)
