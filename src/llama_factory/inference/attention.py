"""Attention over tokens of many sequences that lie one behind the other in a single row.

Transformers calls it in every layer of a network whose configuration names it. What is read, and
where keys and values lie, is the `Pass` that runs: linear layers see all tokens as one matrix
without padding, and each token sees its own sequence alone.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llama_factory.inference.keys_values import Pair, Sequence, Shelf, store, store_rows

NAME = "packed_sequences"

_thread = threading.local()
"""Its `running` is the pass of each thread."""


@dataclass(frozen=True)
class ShelfPart:
    """One token of every sequence of a shelf, in the order of its rows.

    Attributes:
        shelf: holds their keys and values.
        start: place of the first of these tokens in the pass.
        places: [rows] how many tokens each sequence held before.
        num_tokens: that the longest holds with the new one.
    """

    shelf: Shelf
    start: int
    places: Tensor
    num_tokens: int

    @property
    def size(self) -> int:
        """How many tokens it has in the pass."""
        return len(self.places)


@dataclass(frozen=True)
class SequencePart:
    """Some tokens of one sequence, which holds `sequence.length` tokens before them."""

    sequence: Sequence
    start: int
    size: int


@dataclass
class Pass:
    """What one pass through a network reads.

    Attributes:
        parts: cover all tokens of the pass.
        masks: made once and used by all layers.
    """

    parts: list[ShelfPart | SequencePart]
    masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)

    def mask(self, number: int, window: int | None) -> Tensor | None:
        """Which held tokens the new ones of a part see; None for all."""
        key = (number, window)
        if key not in self.masks:
            part = self.parts[number]
            if isinstance(part, ShelfPart):
                self.masks[key] = _shelf_mask(part, window)
            else:
                self.masks[key] = _mask(part, window)
        return self.masks[key]


def _shelf_mask(part: ShelfPart, window: int | None) -> Tensor:
    """[rows, 1, 1, tokens] whether a row's new token sees a place."""
    places = part.places[:, None]
    columns = torch.arange(part.num_tokens, device=places.device)[None]
    seen = columns <= places
    if window is not None:
        seen &= columns > places - window
    return seen[:, None, None]


def _mask(part: SequencePart, window: int | None) -> Tensor | None:
    """[new, tokens] whether a new token sees a place; None for a single one that sees all."""
    before = part.sequence.length
    if part.size == 1 and (window is None or window > before):
        return None
    places = torch.arange(before, before + part.size)[:, None]
    columns = torch.arange(before + part.size)[None]
    seen = columns <= places
    if window is not None:
        seen &= columns > places - window
    return seen


@contextmanager
def running(config: Any, what: Pass) -> Iterator[None]:
    """Let a network read a pass: its attention is the one of this module meanwhile.

    Args:
        config: the network's; its text part is changed too.
        what: is read.
    """
    configs = [config, config.get_text_config()]
    before = [each._attn_implementation for each in configs]
    outer = getattr(_thread, "running", None)
    _thread.running = what
    try:
        for each in configs:
            each._attn_implementation = NAME
        yield
    finally:
        _thread.running = outer
        for each, name in zip(configs, before, strict=True):
            each._attn_implementation = name


def packed_attention(  # noqa: PLR0913  # as Transformers calls it
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """See `transformers.AttentionInterface`.

    Args:
        module: the attention layer, with its number as `layer_idx`.
        query: [1, heads, tokens, width] of all tokens of the pass.
        key: [1, heads of keys, tokens, width].
        value: the same.
        attention_mask: not used: the pass says what is seen.
        scaling: of the products; None for width ** -0.5.
        sliding_window: how many tokens back a token sees, itself included.
        softcap: bounds the products (Gemma 2).
        **kwargs: what else layers hand over.

    Returns:
        [1, tokens, heads, width of values], and no weights.
    """
    what: Pass = _thread.running
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    bounds = (scale, softcap)
    outputs = []
    for number, part in enumerate(what.parts):
        tokens = slice(part.start, part.start + part.size)
        mine = (query[0, :, tokens], (key[0, :, tokens], value[0, :, tokens]))
        mask = what.mask(number, sliding_window)
        if isinstance(part, ShelfPart):
            outputs.append(_attend_shelf(part, module.layer_idx, mine, mask, bounds))
        else:
            outputs.append(_attend(part, module.layer_idx, mine, mask, bounds))
    return torch.cat(outputs)[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)

Own = tuple[Tensor, Pair]
Bounds = tuple[float, float | None]


def _attend_shelf(
    part: ShelfPart, layer: int, own: Own, mask: Tensor | None, bounds: Bounds
) -> Tensor:
    """[rows, heads, width]"""
    query, (key, value) = own
    num_rows, heads = part.size, key.shape[0]
    keys, values = buffers = part.shelf.buffers(layer, (key, value))
    new = (key.transpose(0, 1), value.transpose(0, 1))  # [rows, heads, width]
    store_rows((buffers[0][:num_rows], buffers[1][:num_rows]), new, part.places)
    # Query heads that share keys are as many queries of one token: nothing is repeated.
    grouped = query.transpose(0, 1).reshape(num_rows, heads, -1, query.shape[-1])
    seen = (keys[:num_rows, :, : part.num_tokens], values[:num_rows, :, : part.num_tokens])
    out = _products(grouped, seen, mask, bounds)
    return out.reshape(num_rows, query.shape[0], -1)


def _attend(
    part: SequencePart, layer: int, own: Own, mask: Tensor | None, bounds: Bounds
) -> Tensor:
    """[tokens, heads, width]"""
    query, new = own
    heads, num_tokens = new[0].shape[0], part.size
    before = part.sequence.length
    keys, values = part.sequence.buffers(layer, new)
    store((keys, values), new, before)
    seen = (keys[None, :, : before + num_tokens], values[None, :, : before + num_tokens])
    groups = query.shape[0] // heads
    grouped = query.reshape(1, heads, groups * num_tokens, -1)
    repeated = None if mask is None else mask.to(query.device).repeat(groups, 1)
    out = _products(grouped, seen, repeated, bounds)[0]  # [heads of keys, groups * tokens, width]
    return out.reshape(query.shape[0], num_tokens, -1).transpose(0, 1)


def _products(query: Tensor, seen: Pair, mask: Tensor | None, bounds: Bounds) -> Tensor:
    scale, softcap = bounds
    keys, values = seen
    if softcap is None:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    products = query @ keys.transpose(-1, -2) * scale
    products = torch.tanh(products / softcap) * softcap
    if mask is not None:
        products = products.masked_fill(~mask, -torch.inf)
    return products.float().softmax(-1).to(values.dtype) @ values
