"""Compares a merged model with its base plus adapter, by logits on real prompts."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Example
from llama_factory.model.chat.encoding import EncodedRow, EncodeOptions, encode

MIN_PROMPTS, MAX_PROMPTS = 8, 16
MAX_TOKENS = 256
"""Of each prompt with its answer; bounds the space that kept logits take."""


@dataclass(frozen=True)
class Bound:
    """What a merged model must keep to.

    Attributes:
        agreement: least share of positions whose likeliest token is the same.
        difference: largest difference of a logit, as a share of the largest logit; None for any
            that is a number.
    """

    agreement: float
    difference: float | None


BOUNDS = {
    "float32": Bound(0.99, 1e-2),
    "float16": Bound(0.98, None),
    "bfloat16": Bound(0.95, None),
}
"""By the number format written. The merge itself is always held to float32's bound, before it is
rounded; rounding moves a weight by up to 2^-11 or 2^-8 of itself, which decides near ties and no
more: a model of 135 million parameters agreed at 99.9 % (float16) and 99.2 % (bfloat16)."""


@dataclass(frozen=True)
class Parity:
    """How far a merged model is from base model plus adapter.

    Attributes:
        dtype: number format of the written weights; both models compute in float32.
        num_prompts: rows compared.
        num_positions: tokens compared, prompts and answers.
        max_logit_difference: largest difference of one logit.
        logit_scale: largest logit of the adapter model, either sign.
        agreement: share of positions whose likeliest token is the same.
    """

    dtype: str
    num_prompts: int
    num_positions: int
    max_logit_difference: float
    logit_scale: float
    agreement: float

    @property
    def difference(self) -> float:
        """The largest difference as a share of the largest logit."""
        return self.max_logit_difference / self.logit_scale if self.logit_scale else math.nan

    @property
    def holds(self) -> bool:
        """Whether it is within the bounds; never where a logit is no number."""
        bound = BOUNDS[self.dtype]
        most = math.inf if bound.difference is None else bound.difference
        is_number = math.isfinite(self.difference)
        return is_number and self.agreement >= bound.agreement and self.difference <= most

    def to_json(self) -> dict[str, Any]:
        """Plain values for parity.json."""
        shares = {"relative_difference": self.difference, "holds": self.holds}
        return asdict(self) | shares | {"bound": asdict(BOUNDS[self.dtype])}


def parity_prompts(
    rows: Sequence[Example], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[int, ...]]:
    """Token ids of rows spread over the whole list, so that each language in it has its part.

    Raises:
        ModelError: too few rows fit the chat template.
    """
    codes = [encode(row, tokenizer, EncodeOptions(MAX_TOKENS)) for row in rows]
    usable = [code.ids for code in codes if isinstance(code, EncodedRow)]
    if len(usable) < MIN_PROMPTS:
        raise ModelError(
            f"the parity check needs {MIN_PROMPTS} prompts and {len(usable)} of {len(rows)} rows "
            "can be used. Give --prompts a file with more conversations."
        )
    count = min(MAX_PROMPTS, len(usable))
    return [usable[number * len(usable) // count] for number in range(count)]


def keep_logits(network: Any, prompts: Sequence[Sequence[int]], folder: Path) -> None:
    """Write the logits of every prompt into a folder, one file each; memory holds one at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, logits in enumerate(_logits(network, prompts)):
        save_file({"logits": logits.contiguous()}, folder / f"{number}.safetensors")


def compare(network: Any, prompts: Sequence[Sequence[int]], kept: Path, *, dtype: str) -> Parity:
    """The logits of a merged model beside those that `keep_logits` wrote."""
    worst, scale, agreed, count = 0.0, 0.0, 0, 0
    for number, merged in enumerate(_logits(network, prompts)):
        adapted = load_file(kept / f"{number}.safetensors")["logits"]  # [seq, vocab]
        worst = _larger(worst, (adapted - merged).abs().max())
        scale = _larger(scale, adapted.abs().max())
        agreed += int((adapted.argmax(-1) == merged.argmax(-1)).sum())
        count += len(merged)
    return Parity(dtype, len(prompts), count, worst, scale, agreed / count)


@torch.no_grad()
def _logits(network: Any, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """Logits of each prompt, [seq, vocab] in float32."""
    for ids in prompts:
        batch = torch.tensor([list(ids)], device=network.device)
        yield network(input_ids=batch).logits[0].float().cpu()


def _larger(one: float, other: torch.Tensor) -> float:
    """The larger one; NaN wins, as `max` would lose it."""
    value = float(other)
    return value if math.isnan(value) else max(value, one) if not math.isnan(one) else one
