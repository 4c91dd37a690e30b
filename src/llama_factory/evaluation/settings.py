"""Settings of the evaluation layer."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from llama_factory.core.settings import OneOf, Settings
from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.evaluation.metrics.exact_match import ExactMatch
from llama_factory.evaluation.metrics.token_f1 import TokenF1


class EvaluationSettings(Settings):
    """What is measured after every round."""

    metrics: list[Annotated[Metric, OneOf(METRICS)]] = [ExactMatch(), TokenF1()]
    """How answers are judged. The perplexity of the expected answers is always measured."""
    max_rows: int = Field(200, ge=1)
    """Most held-out rows scored in one task. Higher measures better and takes longer."""
    max_new_tokens: int = Field(64, ge=1)
    """Longest answer generated, in tokens."""
    batch_tokens: int = Field(2048, ge=16)
    """Tokens that go through the model at once; lower needs less memory."""
    guard: Path | None = None
    """File of general rows whose perplexity must not rise: the sign that general ability is lost.
    Empty: a built-in set in English and Chinese."""
