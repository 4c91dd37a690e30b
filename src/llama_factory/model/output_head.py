"""Scores of next tokens from hidden states, without ever holding [tokens, vocabulary].

Only the hidden states of trained positions reach the output head, and they do so in chunks whose
gradient is taken at once. Rows are padded on the right and attention is causal, so no padding mask
is passed and the fast causal kernel is used.
"""

import logging
from typing import Any

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llama_factory.core.errors import ModelError
from llama_factory.model.layers import backbone_of, causal_of
from llama_factory.model.padding import IGNORED
from llama_factory.model.quick.network import of_lengths

CHUNK_ROWS = 256
"""Positions that go through one output head at once."""
PAIR_ROWS = 64
"""The same where two models are compared: four tensors of logits are held."""

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
            with of_lengths(targets):
                logits = self._causal[0](input_ids=ids, use_cache=False).logits
            return _gather(logits[wanted].float(), chosen)
        with of_lengths(targets):
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
            scores = F.linear(hidden[part], weight, bias)  # [chunk, vocabulary]
            if gradient is None:
                scores = scores.float()
                total = scores.logsumexp(1, keepdim=True)
            else:  # a softmax reads and writes a row while it is in the cache
                top, place = scores.max(1, keepdim=True)
                shares = torch.softmax(scores, 1, dtype=torch.float32)
                total = top.float() - shares.gather(1, place).log()
                shares.scatter_add_(1, target, -torch.ones_like(total))
                gradient[part] = (shares.to(weight.dtype) @ weight).neg_()
            log_probs[part] = (scores.gather(1, target).float() - total).squeeze(1)
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


def divergence(
    states: Tensor,
    reference: Tensor,
    head: nn.Module,
    temperature: float,
    *,
    reference_head: nn.Module | None = None,
) -> Tensor:
    """KL(reference || states) of the next-token distributions of two models.

    Both states go through the output heads in chunks, and the gradient is taken in the forward
    pass, so that nothing is computed twice; a head that trains is recomputed instead.

    Args:
        states: [n, width] of the model that trains; logits where the head is `nn.Identity`.
        reference: the same of the model it is compared to; gets no gradient.
        head: states -> logits.
        temperature: both distributions are softened by it.
        reference_head: of the other model; None where it is the same one. Where one of the two has
            more entries, the common first ones are compared.

    Returns:
        [n] in nats, float32.
    """
    if isinstance(head, nn.Identity):
        return _whole(states, reference, temperature)
    heads = _common(head, head if reference_head is None else reference_head)
    if any(weight.requires_grad for weight in head.parameters()):
        chunks = [torch.split(each, PAIR_ROWS) for each in (states, reference)]
        parts = [
            checkpoint(_through_heads, *pair, temperature, *heads, use_reentrant=False)
            for pair in zip(*chunks, strict=True)
        ]
        return torch.cat(parts) if parts else states.new_zeros(0, dtype=torch.float32)
    result: Tensor = _Divergence.apply(states, reference, temperature, *heads)  # type: ignore[no-untyped-call]
    return result


def _common(head: Any, other: Any) -> tuple[Tensor | None, ...]:
    """Weight and bias of both heads, as far as their vocabularies go together."""
    size = min(len(head.weight), len(other.weight))
    tables = (head.weight, head.bias, other.weight, other.bias)
    return tuple(None if each is None else each[:size] for each in tables)


def _whole(states: Tensor, reference: Tensor, temperature: float) -> Tensor:
    """Out of logits."""
    soft = (states.float() / temperature).log_softmax(-1)
    goal = (reference.float() / temperature).log_softmax(-1)
    return F.kl_div(soft, goal, reduction="none", log_target=True).sum(-1)


def _through_heads(states: Tensor, reference: Tensor, temperature: float, *heads: Tensor) -> Tensor:
    with torch.no_grad():
        goal = F.linear(reference, *heads[2:])
    return _whole(F.linear(states, *heads[:2]), goal, temperature)


class _Divergence(torch.autograd.Function):
    """d KL / d state = sum_v (p(v) - q(v)) weight[v] / T, of the size of the states."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, reference: Tensor, temperature: float, *heads: Tensor
    ) -> Tensor:
        result = torch.empty(len(states), dtype=torch.float32, device=states.device)
        gradient = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        for start in range(0, len(states), PAIR_ROWS):
            part = slice(start, start + PAIR_ROWS)
            soft = _scaled_log_probs(states[part], temperature, *heads[:2])  # [chunk, vocabulary]
            goal = _scaled_log_probs(reference[part], temperature, *heads[2:])
            wanted = goal.exp()
            result[part] = (goal.sub_(soft) * wanted).sum(1)
            if gradient is not None:
                pulled = soft.exp_().sub_(wanted).div_(temperature)
                gradient[part] = pulled.to(heads[0].dtype) @ heads[0]
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0][:, None].to(gradient.dtype), *[None] * 6


def _scaled_log_probs(states: Tensor, temperature: float, *head: Tensor) -> Tensor:
    scores = F.linear(states, *head).float().div_(temperature)
    return scores.sub_(scores.logsumexp(1, keepdim=True))


class TaughtLogProbs(nn.Module):
    """Student and teacher seen as: tokens and targets -> log-probabilities and divergences."""

    def __init__(self, network: Any, teacher: Any, temperature: float) -> None:
        super().__init__()
        self.network = network
        self._teacher = [teacher]  # in a list: its weights are not the run's
        self._temperature = temperature
        for each in (network, teacher):
            require_plain_head(each, "distill")

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """[trained tokens, 2] log-probability of each token, and KL(teacher || student) there."""
        own, other = self.network.get_output_embeddings(), self._teacher[0].get_output_embeddings()
        student = trained_states(self.network, ids, targets)
        with torch.no_grad():
            teacher = trained_states(self._teacher[0], ids, targets)
        chosen = targets[targets != IGNORED]
        log_probs = head_log_probs(student, own.weight, own.bias, chosen)
        divergences = divergence(student, teacher, own, self._temperature, reference_head=other)
        return torch.stack([log_probs, divergences], 1)


def trained_states(network: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """[trained tokens, width] what the output head would see where a token is trained."""
    with of_lengths(targets):
        hidden: Tensor = backbone_of(network)(input_ids=ids, use_cache=False).last_hidden_state
    return hidden[targets != IGNORED]


def require_plain_head(network: Any, objective: str) -> None:
    """Make sure that logits are head(hidden).

    Args:
        network: its head.
        objective: which needs that, for the message.

    Raises:
        ModelError: the model caps or scales them afterwards.
    """
    if not has_plain_head(network):
        name = causal_of(network).config.name_or_path
        raise ModelError(
            f"training.objective: {name} changes its logits after the output head, and the "
            f"objective {objective} cannot follow that. Take another model, or the objective sft."
        )
