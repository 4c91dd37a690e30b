"""A network that reads one sequence after the other, for those that cannot read packed ones.

Such are networks with states other than keys and values, with biases in attention instead of
positions, and adapters that put trained vectors before every row.
"""

import inspect
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from llama_factory.inference.keys_values import Sequence
from llama_factory.inference.likeliest import in_float32
from llama_factory.inference.packed import Span, context_tokens
from llama_factory.model.layers import causal_of


@dataclass(eq=False)
class _Cached(Sequence):
    cache: Any = None


class OneByOneNetwork:
    """Any causal Transformers network in eval mode, adapted or not. See `SequenceReader`."""

    can_take_back = False

    def __init__(self, network: Any) -> None:
        adapter = getattr(network, "active_peft_config", None)
        taken = getattr(adapter, "num_virtual_tokens", None) or 0
        self.context = context_tokens(network) - taken
        self.dtype: torch.dtype = network.dtype
        self._network = network
        accepted = inspect.signature(causal_of(network).forward).parameters
        is_recurrent = "cache_params" in accepted and "past_key_values" not in accepted
        self._cache_name = "cache_params" if is_recurrent else "past_key_values"

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self._network.parameters())).device

    def begin(self, version: str = "") -> Sequence:
        """See `SequenceReader`."""
        cache = DynamicCache(config=causal_of(self._network).config)
        return _Cached(version, cache=cache)

    def settle(self, sequence: Sequence) -> None:
        """See `SequenceReader`."""

    def end(self, sequence: Sequence) -> None:
        """See `SequenceReader`."""
        assert isinstance(sequence, _Cached)
        sequence.cache = None

    @torch.inference_mode()
    def hidden(self, version: str, ids: Several[int]) -> Tensor:
        """See `SequenceReader`."""
        given = torch.tensor([list(ids)], device=self.device)
        mask = torch.ones_like(given)
        out = self._network(input_ids=given, attention_mask=mask, output_hidden_states=True)
        return torch.as_tensor(out.hidden_states[-1][0, -len(ids) :])

    @torch.inference_mode()
    def read(self, spans: Several[Span]) -> Tensor:
        """See `SequenceReader`."""
        return torch.cat([self._read(span) for span in spans])

    def _read(self, span: Span) -> Tensor:
        """[num_last, vocabulary]; states that are no keys and values take one token at a time."""
        sequence = span.sequence
        if sequence.length == 0:
            return self._forward(sequence, span.ids)[-span.num_last :]
        rows = [self._forward(sequence, [token]) for token in span.ids]
        return torch.cat(rows[-span.num_last :])

    def _forward(self, sequence: Sequence, ids: Several[int]) -> Tensor:
        assert isinstance(sequence, _Cached)
        # Trained vectors stand before the first token: after it the network goes on as its own.
        is_first = sequence.length == 0
        network = self._network if is_first else causal_of(self._network)
        given = torch.tensor([list(ids)], device=self.device)
        with in_float32(self._network):
            out = network(
                input_ids=given,
                # No mask: recurrent networks take a longer one than the tokens for padding.
                use_cache=True,
                **{self._cache_name: sequence.cache},
            )
        sequence.cache = out[self._cache_name]
        sequence.length += len(ids)
        return torch.as_tensor(out.logits[0])
