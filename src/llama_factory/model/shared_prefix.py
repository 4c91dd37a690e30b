"""What the sequences of a micro-batch begin with in common goes through the model once.

The shared tokens are read as one sequence; its keys and values are kept with their gradient, and
every sequence goes on from them. States and gradients are those of whole sequences up to rounding.
Rows of one task share their instruction, and the two answers of a preference pair their prompt.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from llama_factory.model.layers import backbone_of, causal_of, has_dropout
from llama_factory.model.padding import is_worth_sharing


class SharedPrefix:
    """A network's way to read micro-batches, with what they share read once.

    Args:
        network: the one that trains.
        is_wanted: whether to share at all.
    """

    def __init__(self, network: Any, *, is_wanted: bool) -> None:
        self._backbone = backbone_of(network)
        self._is_possible = is_wanted and _can_go_on(network) and _is_exact(network)
        # Found once: this is asked in every forward pass, and a model has thousands of modules.
        modules = causal_of(network).modules()
        self._may_recompute = [each for each in modules if hasattr(each, "gradient_checkpointing")]

    @property
    def is_on(self) -> bool:
        """Whether micro-batches that begin alike are cheaper now."""
        is_recomputed = any(each.gradient_checkpointing for each in self._may_recompute)
        return self._is_possible and not is_recomputed

    def num_read(self, ids: Tensor) -> int:
        """How many tokens go through the model for these sequences, padding included.

        Args:
            ids: [sequences, seq] token ids.
        """
        if not self.is_on:
            return ids.numel()
        return ids.numel() - (len(ids) - 1) * _shared_tokens(ids)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Share in the forward passes of the network's backbone inside the context."""
        if not self._is_possible:
            yield
            return
        whole = self._backbone.forward

        def forward(*args: Any, **options: Any) -> Any:
            ids = options.get("input_ids")
            if not self.is_on or args or ids is None or options.keys() - {"input_ids", "use_cache"}:
                return whole(*args, **options)
            num_shared = 0 if options.get("use_cache") else _shared_tokens(ids)
            if not num_shared:
                return whole(**options)
            return BaseModelOutputWithPast(
                last_hidden_state=_read_in_two_parts(whole, self._backbone.config, ids, num_shared)
            )

        self._backbone.forward = forward
        try:
            yield
        finally:
            del self._backbone.forward


def _shared_tokens(ids: Tensor) -> int:
    """Tokens to be read once for all sequences, which keep one of their own; 0 if too few."""
    alike = (ids == ids[:1]).all(0)
    num_tokens = min(int(alike.cumprod(0).sum()), ids.shape[1] - 1)
    return num_tokens if is_worth_sharing(len(ids), num_tokens) else 0


def _read_in_two_parts(whole: Any, config: Any, ids: Tensor, num_shared: int) -> Tensor:
    """[sequences, seq, width] states, the first `num_shared` tokens read as one sequence."""
    cache = DynamicCache(config=config)
    first = whole(input_ids=ids[:1, :num_shared], past_key_values=cache, use_cache=True)
    layers: Any = cache.layers
    for layer in layers:
        layer.keys = layer.keys.expand(len(ids), -1, -1, -1)
        layer.values = layer.values.expand(len(ids), -1, -1, -1)
    rest = whole(input_ids=ids[:, num_shared:], past_key_values=cache, use_cache=True)
    shared = first.last_hidden_state.expand(len(ids), -1, -1)
    return torch.cat([shared, rest.last_hidden_state], 1)


def _can_go_on(network: Any) -> bool:
    """Whether keys and values of all earlier tokens are all that later ones need.

    With dropout every sequence would lose the same parts of what is shared.
    """
    adapter = getattr(network, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False) or has_dropout(network):
        return False
    layers = DynamicCache(config=network.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@torch.no_grad()
def _is_exact(network: Any) -> bool:
    """Whether this architecture's states are the same when read in two parts; tried out."""
    backbone = backbone_of(network)
    vocabulary = network.config.get_text_config().vocab_size
    ids = torch.arange(4, 28, device=next(backbone.parameters()).device).reshape(2, 12) % vocabulary
    ids[1, :6] = ids[0, :6]
    whole = backbone(input_ids=ids, use_cache=False).last_hidden_state
    parts = _read_in_two_parts(backbone, backbone.config, ids, 6)
    return torch.allclose(whole.float(), parts.float(), rtol=1e-2, atol=1e-2)
