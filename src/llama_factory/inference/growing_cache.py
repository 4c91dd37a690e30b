"""Keys and values of rows that are being answered: rows join, leave, and share a prefix."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

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
