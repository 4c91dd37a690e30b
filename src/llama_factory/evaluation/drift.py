"""How far a model has moved from its base on text that no round teaches."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llama_factory.core.types import Example
from llama_factory.evaluation.row_drift import RowDrift
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import EncodedRow, encode
from llama_factory.model.padding import IGNORED, by_length, pad
from llama_factory.model.wrapping import without_adapter

MOST_TOKENS = 512
"""Tokens at once at most, as all logits of two models are held."""


@torch.no_grad()
def drift_from_base(
    model: AdaptedModel, rows: Sequence[Example], *, batch_tokens: int, base: Any = None
) -> list[RowDrift]:
    """Likelihoods of each row under both models, and how far apart their predictions are.

    Args:
        model: with its adapter on.
        rows: general rows, always the same.
        batch_tokens: most tokens that go through the model at once.
        base: network of the base model. None: the same network with its adapter switched off; a
            model whose own weights were trained has none at hand.
    """
    options = replace(model.options, train_on_prompt=False)
    codes = {i: encode(row, model.tokenizer, options) for i, row in enumerate(rows)}
    fitting = [(i, code) for i, code in codes.items() if isinstance(code, EncodedRow)]
    found = [RowDrift(0.0, 0, 0.0, 0.0)] * len(rows)
    for chosen in by_length([code for _, code in fitting], min(batch_tokens, MOST_TOKENS)):
        measured = _measure(model, base, [fitting[n][1] for n in chosen])
        for n, each in zip(chosen, measured, strict=True):
            found[fitting[n][0]] = each
    return found


def divergence(drift: Sequence[RowDrift]) -> float | None:
    """Mean KL(model || base) a token in nats; None where the base was not at hand."""
    known = [each.divergence for each in drift if each.divergence is not None]
    num_tokens = sum(each.tokens for each in drift)
    return sum(known) / num_tokens if len(known) == len(drift) and num_tokens else None


def _measure(model: AdaptedModel, other: Any, codes: Sequence[EncodedRow]) -> list[RowDrift]:
    ids, targets = (each.to(model.device) for each in pad(codes))
    counts = (targets != IGNORED).sum(1).tolist()
    own = _log_probs(model.network, ids, targets)
    if other is None:
        base = _base_log_probs(model.network, ids, targets)
    else:
        base = _log_probs(other, ids, targets)
    chosen = targets[targets != IGNORED][:, None]
    nats = -own.gather(1, chosen).squeeze(1)
    if base is None:
        return [RowDrift(float(n.sum()), len(n), None, None) for n in torch.split(nats, counts)]
    base_nats = -base.gather(1, chosen).squeeze(1)
    apart = (own.exp() * (own - base)).sum(1)
    columns = (torch.split(each.double(), counts) for each in (nats, base_nats, apart))
    return [
        RowDrift(float(n.sum()), len(n), float(b.sum()), float(d.sum()))
        for n, b, d in zip(*columns, strict=True)
    ]


def _log_probs(network: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """[answer tokens, vocabulary] in float32."""
    logits = network(input_ids=ids, use_cache=False).logits
    logits = logits[:, -targets.shape[1] :]  # a trained prompt comes before the row's own tokens
    chosen: Tensor = logits[targets != IGNORED].float().log_softmax(-1)
    return chosen


def _base_log_probs(network: Any, ids: Tensor, targets: Tensor) -> Tensor | None:
    """The same with the adapter off; None where there is no adapter to switch off."""
    if not hasattr(network, "disable_adapter"):
        return None
    with without_adapter(network):
        return _log_probs(network, ids, targets)
