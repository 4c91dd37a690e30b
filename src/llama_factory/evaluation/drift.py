"""How far a model is from its base on general rows, with intervals; measured in `likelihood`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.evaluation import statistics
from llama_factory.evaluation.statistics import Estimate


@dataclass(frozen=True)
class RowDrift:
    """One row's answers under a model and its base.

    Attributes:
        nats: negative log-likelihood.
        tokens: number of tokens that `nats` sums over; 0 where the row does not fit the model.
        base_nats: the base model's; None where the base is unknown.
        divergence: KL(model || base) in nats, summed over the tokens; None like `base_nats`.
    """

    nats: float
    tokens: int
    base_nats: float | None
    divergence: float | None


@dataclass(frozen=True)
class Drift:
    """How far each version of a lineage has moved from the base model on general text.

    Attributes:
        versions: oldest first.
        ratios: perplexity on the guard over the base model's; None where it was not measured.
        divergences: mean KL(version || base) a token in nats, on the guard's answers.
        ratio_intervals: 95 % intervals of the ratios by version, where they are known.
        divergence_intervals: the same of the divergences.
    """

    versions: tuple[str, ...]
    ratios: tuple[float | None, ...]
    divergences: tuple[float | None, ...]
    ratio_intervals: Mapping[str, Estimate] = field(default_factory=dict)
    divergence_intervals: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "versions": list(self.versions),
            "perplexity_ratio": list(self.ratios),
            "divergence": list(self.divergences),
            "intervals": {
                "perplexity_ratio": self._in_order(self.ratio_intervals),
                "divergence": self._in_order(self.divergence_intervals),
            },
        }

    def _in_order(self, intervals: Mapping[str, Estimate]) -> list[dict[str, Any] | None]:
        return [intervals[v].to_json() if v in intervals else None for v in self.versions]


def write_row_drift(path: Path, drift: Sequence[RowDrift]) -> Sequence[RowDrift]:
    """Write the rows, one JSON line each, and return them."""
    files.write_jsonl(path, map(asdict, drift))
    return drift


def read_row_drift(path: Path) -> list[RowDrift]:
    """The rows in a file; none where there is no file."""
    return [RowDrift(**row) for row in files.read_jsonl(path)] if path.exists() else []


def mean_divergence(drift: Sequence[RowDrift]) -> float | None:
    """Mean KL(model || base) a token in nats; None where the base is unknown."""
    known = [each.divergence for each in drift if each.divergence is not None]
    num_tokens = sum(each.tokens for each in drift)
    return sum(known) / num_tokens if len(known) == len(drift) and num_tokens else None


def perplexity_ratio(drift: Sequence[RowDrift]) -> Estimate | None:
    """Perplexity over the base model's, with its interval; None where the base is unknown."""
    base = [each.base_nats for each in drift if each.base_nats is not None]
    if not drift or len(base) < len(drift):
        return None
    moved = [each.nats - old for each, old in zip(drift, base, strict=True)]
    return statistics.perplexity(moved, [each.tokens for each in drift])


def token_divergence(drift: Sequence[RowDrift]) -> Estimate | None:
    """Mean KL(model || base) a token in nats, with its interval; None where the base is unknown."""
    divergences = [each.divergence for each in drift if each.divergence is not None]
    if not drift or len(divergences) < len(drift):
        return None
    return statistics.ratio(divergences, [each.tokens for each in drift])
