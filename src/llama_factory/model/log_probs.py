"""Log-probabilities of the trained tokens, without ever holding [tokens, vocabulary].

Only the hidden states of trained positions reach the output head, and they do so in chunks whose
gradient is taken at once (engine.md, idea 3). Rows are padded on the right and attention is causal,
so no padding mask is passed and the fast causal kernel is used (idea 2).
"""

import logging
from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llama_factory.model.layers import backbone_of, causal_of
from llama_factory.model.padding import IGNORED

CHUNK_ROWS = 256
"""Positions that go through the output head at once."""

logger = logging.getLogger(__name__)


class TokenLogProbs(nn.Module):
    """A causal language model seen as: tokens and targets -> log-probability of each target."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        # in lists, so that weights are not registered twice
        self._causal = [causal_of(network)]
        self._backbone = [backbone_of(network)]
        self._has_plain_head = has_plain_head(network)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of every target that is not IGNORED.

        Args:
            ids: [rows, seq] token ids, padded on the right with anything.
            targets: [rows, seq] what each position must predict, IGNORED where nothing.

        Returns:
            [trained tokens] in nats, float32, in the order of `targets` read row by row.
        """
        wanted = targets != IGNORED
        chosen = targets[wanted]
        if not self._has_plain_head:
            logits = self._causal[0](input_ids=ids, use_cache=False).logits
            return _gather(logits[wanted].float(), chosen)
        hidden = self._backbone[0](input_ids=ids, use_cache=False).last_hidden_state
        head = self._causal[0].get_output_embeddings()
        return head_log_probs(hidden[wanted], head.weight, getattr(head, "bias", None), chosen)


def head_log_probs(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Log-probability of `targets` under softmax(hidden @ weight.T + bias), chunk by chunk.

    Args:
        hidden: [n, width].
        weight: [vocabulary, width].
        bias: [vocabulary] or None.
        targets: [n] token ids.

    Returns:
        [n] in nats, float32.
    """
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        chunks = zip(torch.split(hidden, CHUNK_ROWS), torch.split(targets, CHUNK_ROWS), strict=True)
        parts = [
            checkpoint(_chunk_log_probs, h, weight, bias, t, use_reentrant=False) for h, t in chunks
        ]
        return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)
    chosen: Tensor = _FrozenHead.apply(hidden, weight, bias, targets)  # type: ignore[no-untyped-call]
    return chosen


def _chunk_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> Tensor:
    return _gather(F.linear(hidden, weight, bias).float(), targets)


def _gather(logits: Tensor, targets: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)


class _FrozenHead(torch.autograd.Function):
    """The gradient of each log-probability is taken in the forward pass, chunk by chunk.

    d log p(t) / d hidden = weight[t] - sum_v p(v) weight[v], of the size of `hidden`: it is kept
    instead of the logits and scaled in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        log_probs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            target = targets[part, None]
            scores = F.linear(hidden[part], weight, bias).float()  # [chunk, vocabulary]
            total = scores.logsumexp(1, keepdim=True)
            log_probs[part] = (scores.gather(1, target) - total).squeeze(1)
            if gradient is not None:
                pulled = scores.sub_(total).exp_().neg_()
                pulled.scatter_add_(1, target, torch.ones_like(total))
                gradient[part] = pulled.to(weight.dtype) @ weight
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return log_probs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None].to(gradient.dtype), None, None, None


@torch.no_grad()
def has_plain_head(network: Any) -> bool:
    """Whether logits are just head(hidden): some models cap or scale them afterwards."""
    causal, backbone = causal_of(network), backbone_of(network)
    device = next(causal.parameters()).device
    ids = torch.arange(4, 12, device=device)[None] % causal.config.get_text_config().vocab_size
    hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state
    logits = causal(input_ids=ids, use_cache=False).logits
    head = causal.get_output_embeddings()
    is_plain = isinstance(head, nn.Linear | AuxiliaryTrainingWrapper) and torch.allclose(
        head(hidden).float(), logits.float(), rtol=1e-2, atol=1e-3
    )
    if not is_plain:
        logger.warning(
            "This model changes its logits after the output head, so all of them are computed: "
            "training is slower and needs more memory."
        )
    return bool(is_plain)
