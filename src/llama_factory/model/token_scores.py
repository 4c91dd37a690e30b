"""What objectives need of the logits besides each token's log-probability, chunk by chunk."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from llama_factory.model.dtypes import computing
from llama_factory.model.exchange import at_rest, exchanged
from llama_factory.model.layers import causal_of, has_dropout
from llama_factory.model.output_head import (
    CHUNK_ROWS,
    divergence,
    has_plain_head,
    head_log_probs,
    require_plain_head,
    trained_states,
)
from llama_factory.model.padding import IGNORED

Measure = Callable[[Tensor], Tensor]
"""[n, vocabulary] log-probabilities, float32 -> [n] numbers."""


class MeasuredLogProbs(nn.Module):
    """A model seen as: tokens and targets -> log-probability of each target, and a measure there.

    Args:
        network: that trains.
        measure: of the distribution that predicts each trained token.
    """

    def __init__(self, network: Any, measure: Measure) -> None:
        super().__init__()
        self.network = network
        self._measure = measure
        self._has_plain_head = has_plain_head(network)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """[trained tokens, 2] in the order of `targets` read row by row, float32.

        Args:
            ids: [rows, seq] token ids, padded on the right with anything.
            targets: [rows, seq] what each position must predict, IGNORED where nothing.
        """
        wanted = targets != IGNORED
        chosen = targets[wanted]
        if not self._has_plain_head:
            logits = causal_of(self.network)(input_ids=ids, use_cache=False).logits
            return self._scores(logits[wanted], chosen)
        head = self.network.get_output_embeddings()
        states = trained_states(self.network, ids, targets)
        chunks = zip(torch.split(states, CHUNK_ROWS), torch.split(chosen, CHUNK_ROWS), strict=True)
        bias = getattr(head, "bias", None)
        parts = [
            checkpoint(self._through_head, h, head.weight, bias, t, use_reentrant=False)
            for h, t in chunks
        ]
        return torch.cat(parts) if parts else states.new_zeros(0, 2, dtype=torch.float32)

    def _through_head(
        self, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        return self._scores(F.linear(states, weight, bias), targets)

    def _scores(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_probs = logits.float().log_softmax(-1)
        return torch.stack(
            [log_probs.gather(1, targets[:, None])[:, 0], self._measure(log_probs)], 1
        )


class ComparedWithStart(nn.Module):
    """A model seen as: tokens and targets -> log-probabilities, and how far it has moved.

    Trained weights are exchanged for copies of what they were at the start of the run: beside an
    adapter that is little, and where all weights train as much as they are.

    Args:
        model: before its first update.
        objective: which compares, for messages.

    Raises:
        ModelError: the model changes its logits after the output head.
    """

    def __init__(self, model: Any, objective: str) -> None:
        super().__init__()
        self.network = model.network
        self._model = [model]  # in a list: its weights are the network's
        self._weights = [(each, each.detach().clone()) for each in model.trainable().values()]
        self._is_random = has_dropout(model.network)
        require_plain_head(model.network, objective)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """[trained tokens, 2] log-probability of each token, and KL(start || now) there.

        Args:
            ids: [rows, seq] token ids, padded on the right with anything.
            targets: [rows, seq] what each position must predict, IGNORED where nothing.
        """
        before, before_head = self._before(ids, targets)
        states, head = trained_states(self.network, ids, targets), self._head()
        log_probs = head_log_probs(states, head.weight, head.bias, targets[targets != IGNORED])
        moved = divergence(states, before, head, 1.0, reference_head=before_head)
        return torch.stack([log_probs, moved], 1)

    @torch.no_grad()
    def _before(self, ids: Tensor, targets: Tensor) -> tuple[Tensor, nn.Module]:
        """[trained tokens, width] states at the start of the run, and the head that it had."""
        self._weights = [(weight, value.to(weight)) for weight, value in self._weights]
        model = self._model[0]
        same_format = computing(model.precision, model.device)
        rest = at_rest(self.network, is_random=self._is_random)
        with same_format, rest, exchanged(self._weights):
            states = trained_states(self.network, ids, targets)
            head = self._head()
            kept = nn.Linear(head.weight.shape[1], head.weight.shape[0], device="meta")
            kept.weight = nn.Parameter(head.weight.data, requires_grad=False)
            kept.bias = head.bias  # heads of language models have none, or a frozen one
        return states, kept

    def _head(self) -> Any:
        return self.network.get_output_embeddings()
