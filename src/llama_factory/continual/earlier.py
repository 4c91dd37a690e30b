"""The model as it was before the round, beside the one that trains: no second model.

Trained weights are exchanged for copies of what they were, or the adapter is switched off, for as
long as a forward pass takes. The graph of the pass that trains stays as it is.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from llama_factory.core.errors import ConfigError
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.dtypes import computing
from llama_factory.model.exchange import at_rest, exchanged
from llama_factory.model.layers import backbone_of, causal_of, has_dropout
from llama_factory.model.output_head import divergence
from llama_factory.model.padding import IGNORED
from llama_factory.model.quick.network import of_lengths, row_lengths
from llama_factory.model.wrapping import switched_off, switches
from llama_factory.training.objectives import MicroBatch


class EarlierModel:
    """The model before the round, to which the one that trains is compared.

    Args:
        model: before its first step.

    Raises:
        ConfigError: its output head trains.
    """

    def __init__(self, model: AdaptedModel) -> None:
        require_fixed_head(model)
        network = model.network
        self.states = States(network)
        self._model = model
        self._network = network
        self._weights = [(each, each.detach().clone()) for each in model.trainable().values()]
        self._switches = switches(network)
        self._is_random = has_dropout(network)

    def divergences(
        self,
        states: Tensor,
        batch: MicroBatch,
        chosen: Tensor,
        *,
        is_base: bool,
        temperature: float,
    ) -> Tensor:
        """KL(reference || model) of the next-token distributions.

        Args:
            states: of the forward pass that trains, `States.take()`.
            batch: its micro-batch.
            chosen: [trained tokens] which of them to compare.
            is_base: the reference is the base model, else the previous version.
            temperature: both distributions are softened by it.

        Returns:
            [chosen tokens] in nats, float32; the reference gets no gradient.
        """
        sequence, place = (batch.targets != IGNORED).nonzero()[chosen].T
        rows, where = sequence.unique(return_inverse=True)
        some = batch.targets[rows]  # [sequences with chosen tokens, seq]
        # in the number format of the pass that trains: else the two differ by their rounding
        same_format = computing(self._model.precision, self._model.device)
        before = self._as_before(is_base=is_base)
        rest = at_rest(self._network, is_random=self._is_random)
        with torch.no_grad(), same_format, rest, before, of_lengths(some):
            # attention is causal: what comes after the last trained token adds nothing
            ids = batch.ids[rows, : max(row_lengths(some))]
            reference = self.states.again(ids)[where, place]
        return divergence(states[sequence, place], reference, self.states.head, temperature)

    def _as_before(self, *, is_base: bool) -> contextlib.AbstractContextManager[None]:
        """Where the base model's own weights train, it is the model at the start of the run."""
        if is_base and self._switches:
            return switched_off(self._switches)
        return exchanged(self._weights)


class States:
    """What the output head saw of the micro-batch that is being trained on.

    For nearly all models these are hidden states, of which the head makes logits. Models that
    change their logits after the head are trained on the logits themselves, so these are kept.

    Args:
        network: the one that trains.
    """

    def __init__(self, network: Any) -> None:
        self._causal = causal_of(network)
        self._backbone = backbone_of(network)
        self._kept: Tensor | None = None
        self._is_whole = False
        self._hooks = [
            self._backbone.register_forward_hook(self._keep_hidden),
            self._causal.register_forward_hook(self._keep_logits),
        ]

    @property
    def head(self) -> nn.Module:
        """States -> logits."""
        head: nn.Module = self._causal.get_output_embeddings()
        return nn.Identity() if self._is_whole else head

    def take(self) -> Tensor:
        """[sequences, seq, width] of the last forward pass with a gradient; kept no longer."""
        assert self._kept is not None, "no forward pass with a gradient went before"
        states, self._kept = self._kept, None
        return states

    def again(self, ids: Tensor) -> Tensor:
        """[sequences, seq, width] of other sequences, the same way through the model.

        Args:
            ids: [sequences, seq] token ids.
        """
        module = self._causal if self._is_whole else self._backbone
        output = module(input_ids=ids, use_cache=False)
        states: Tensor = output.logits if self._is_whole else output.last_hidden_state
        return states

    def close(self) -> None:
        """Look on no longer."""
        for hook in self._hooks:
            hook.remove()
        self._kept = None

    def _keep_hidden(self, _: nn.Module, args: Any, output: Any) -> None:
        self._keep(output.last_hidden_state, is_whole=False)

    def _keep_logits(self, _: nn.Module, args: Any, output: Any) -> None:
        self._keep(output.logits, is_whole=True)

    def _keep(self, states: Tensor, *, is_whole: bool) -> None:
        if states.requires_grad:
            self._kept, self._is_whole = states, is_whole


def require_fixed_head(model: AdaptedModel) -> None:
    """Make sure that then and now share one output head.

    Raises:
        ConfigError: it trains.
    """
    if any(weight.requires_grad for weight in model.network.get_output_embeddings().parameters()):
        raise ConfigError(
            "strategies.distill: the output head trains too, and the model is compared with its "
            "earlier self through one head. Leave the head out of what trains "
            "(model.adapter.modules_to_save), or leave distill out."
        )
