"""How far a model is from its base on each general row, and how sure the totals are."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.evaluation import statistics
from llama_factory.evaluation.statistics import Estimate


@dataclass(frozen=True)
class RowDrift:
    """One row's answers under a model and its base.

    Attributes:
        nats: negative log-likelihood.
        tokens: how many tokens that is; 0 where the row does not fit the model.
        base_nats: the base model's; None where the base is not at hand.
        divergence: sum over the tokens of KL(model || base) in nats.
    """

    nats: float
    tokens: int
    base_nats: float | None
    divergence: float | None


def keep(path: Path, drift: Sequence[RowDrift]) -> Sequence[RowDrift]:
    """Write the rows, one JSON line each, and hand them on."""
    files.write_jsonl(path, map(asdict, drift))
    return drift


def read(path: Path) -> list[RowDrift]:
    """The rows that were kept; none where none were."""
    return [RowDrift(**row) for row in files.read_jsonl(path)] if path.exists() else []


def perplexity_ratio(drift: Sequence[RowDrift]) -> Estimate | None:
    """Perplexity over the base model's; None where the base was not at hand."""
    base = [each.base_nats for each in drift if each.base_nats is not None]
    if not drift or len(base) < len(drift):
        return None
    moved = [each.nats - old for each, old in zip(drift, base, strict=True)]
    return statistics.perplexity(moved, [each.tokens for each in drift])


def token_divergence(drift: Sequence[RowDrift]) -> Estimate | None:
    """Mean KL(model || base) a token in nats; None where the base was not at hand."""
    apart = [each.divergence for each in drift if each.divergence is not None]
    if not drift or len(apart) < len(drift):
        return None
    return statistics.ratio(apart, [each.tokens for each in drift])
