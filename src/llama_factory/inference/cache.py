"""The cache of keys and values of a batch that grows, and a network that reads on after it."""

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from llama_factory.model.chat.tokens import first_difference
from llama_factory.model.layers import causal_of

ROOM = 64
"""Tokens for which room is made at once; Transformers' own cache copies all of it every step."""


class _Layer(DynamicLayer):
    """One layer's keys and values, [rows, heads, seq, width], as views of longer buffers."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._grow(key_states, value_states)
        assert self._buffers is not None
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start:end] = new
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def replace(self, keys: Tensor, values: Tensor) -> None:
        """Hold other rows; room is made at the next token."""
        self.keys, self.values, self._buffers = keys, values, None
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def _grow(self, *new: Tensor) -> None:
        end = self.get_seq_length() + new[0].shape[-2]
        held = (self.keys, self.values) if self.get_seq_length() else (None, None)
        buffers = []
        for old, states in zip(held, new, strict=True):
            buffer = states.new_empty(*states.shape[:2], end + ROOM, states.shape[3])
            if old is not None:
                buffer[:, :, : old.shape[2]] = old
            buffers.append(buffer)
        self._buffers = (buffers[0], buffers[1])
        self.is_initialized = True


def empty_cache(num_layers: int) -> DynamicCache:
    """A cache for a new batch."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    cache.layers = [_Layer() for _ in range(num_layers)]
    return cache


def num_layers(network: Any) -> int | None:
    """How many layers the network's cache has; None where it keeps more than keys and values."""
    layers = DynamicCache(config=network.config).layers
    is_plain = all(type(each) in (DynamicLayer, DynamicSlidingWindowLayer) for each in layers)
    return len(layers) if layers and is_plain else None


def repeated(cache: DynamicCache, num_rows: int) -> DynamicCache:
    """A cache of `num_rows` rows that all begin like the single row of `cache`."""
    copy = empty_cache(len(cache.layers))
    for layer, new in zip(cache.layers, copy.layers, strict=True):
        keys, values = (t.expand(num_rows, -1, -1, -1) for t in (layer.keys, layer.values))
        new.replace(keys, values)
    return copy


def joined(first: DynamicCache, second: DynamicCache) -> DynamicCache:
    """The rows of both, padded on the left to the same length."""
    width = max(first.get_seq_length(), second.get_seq_length())
    cache = empty_cache(len(first.layers))
    for a, b, new in zip(first.layers, second.layers, cache.layers, strict=True):
        pairs = ((a.keys, b.keys), (a.values, b.values))
        keys, values = (torch.cat([_widened(t, width) for t in pair]) for pair in pairs)
        new.replace(keys, values)
    return cache


def chosen(cache: DynamicCache, rows: Sequence[int], *, start: int) -> DynamicCache:
    """Some rows of a cache, without its first `start` tokens."""
    picked = empty_cache(len(cache.layers))
    for layer, new in zip(cache.layers, picked.layers, strict=True):
        index = torch.tensor(rows, device=layer.keys.device)
        new.replace(*(t[:, :, start:].index_select(0, index) for t in (layer.keys, layer.values)))
    return picked


def _widened(states: Tensor, width: int) -> Tensor:
    return F.pad(states, (0, 0, width - states.shape[2], 0))


LEAST_SHARED = 8
"""Shared prefixes below so many tokens are not worth a pass of their own."""


@dataclass(frozen=True)
class Begun:
    """Prompts that were read.

    Attributes:
        cache: keys and values of their tokens.
        mask: [rows, seq] 1 for tokens, 0 for padding.
        logits: [rows, vocabulary] what the model expects next.
        num_tokens: of the longest prompt.
    """

    cache: DynamicCache
    mask: Tensor
    logits: Tensor
    num_tokens: int


class CachedNetwork:
    """A network for which `can_cache` is true, in eval mode."""

    def __init__(self, network: Any) -> None:
        model = causal_of(network)
        self.config = network.config
        self.device = next(network.parameters()).device
        self.context = context_tokens(network)
        self._network = network
        self._accepted = inspect.signature(model.forward).parameters
        self._num_layers = num_layers(network) or 0

    def read_shared(self, prompts: Sequence[Sequence[int]]) -> Begun | None:
        """What all prompts begin with, read once; each prompt keeps at least one token of its own.

        None where that is too little, or where a sliding window would push it out: the window
        counts the padding that follows a prefix.
        """
        if len(prompts) < 2 or getattr(self.config, "sliding_window", None):
            return None
        most = min(map(len, prompts)) - 1
        num_shared = shared_tokens(prompts, most)
        return self.read([prompts[0][:num_shared]]) if num_shared >= LEAST_SHARED else None

    def read(self, prompts: Sequence[Sequence[int]], shared: Begun | None = None) -> Begun:
        """Read prompts, padded on the left so that all end together.

        Args:
            prompts: token ids, none empty.
            shared: what all of them begin with, as `read_shared` gave it.
        """
        num_rows, num_shared = len(prompts), shared.num_tokens if shared else 0
        ids, mask = padded([prompt[num_shared:] for prompt in prompts], self.device)
        cache = empty_cache(self._num_layers)
        if shared is not None:
            cache = repeated(shared.cache, num_rows)
            mask = torch.cat([shared.mask.expand(num_rows, -1), mask], dim=1)
        logits = self.logits(ids, mask, cache, last=1)[:, 0]
        return Begun(cache, mask, logits, max(map(len, prompts)))

    def logits(self, ids: Tensor, mask: Tensor, cache: DynamicCache, *, last: int) -> Tensor:
        """What the model expects after the last tokens; `cache` holds all of them afterwards.

        Args:
            ids: [rows, new] tokens to read.
            mask: [rows, seq] 1 for tokens, 0 for padding, of the cache and of `ids`.
            cache: what was read before.
            last: after how many tokens at the end.

        Returns:
            [rows, last, vocabulary].
        """
        # Rows that have ended may be read on with others, beyond what the model has places for.
        places = (mask.cumsum(1) - 1).clamp(0, self.context - 1)[:, -ids.shape[1] :]
        options = {"position_ids": places, "logits_to_keep": last}
        out = self._network(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in options.items() if name in self._accepted},
        )
        return out.logits[:, -last:]


def context_tokens(network: Any) -> int:
    """How many tokens a network can read; those without a position table name no limit."""
    limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    return int(limit or sys.maxsize)


def can_cache(network: Any) -> bool:
    """Whether a network keeps nothing but keys and values of its tokens from step to step."""
    adapter = getattr(network, "active_peft_config", None)
    return not getattr(adapter, "is_prompt_learning", False) and num_layers(network) is not None


def shared_tokens(prompts: Sequence[Sequence[int]], most: int) -> int:
    """How many tokens, up to `most`, all prompts begin with."""
    return min(most, first_difference(min(map(tuple, prompts)), max(map(tuple, prompts))))


def padded(
    prompts: Sequence[Sequence[int]], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Token ids and mask, [rows, seq] each, padded on the left so that all end together."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
