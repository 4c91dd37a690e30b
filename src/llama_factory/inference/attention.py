"""Attention over tokens of many sequences that lie one behind the other in a single row.

Transformers calls it in every layer of a network whose configuration names it. What is read, and
where keys and values lie, is the `Pass` that runs: linear layers see all tokens as one matrix
without padding, and each token sees its own sequence alone.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llama_factory.inference.keys_values import Pair, Sequence, Shelf, store

NAME = "packed_sequences"
CHANGING = ("s_aux", "sinks", "position_bias", "indices", "block_indices")
"""Arguments that make it another attention: sinks, biases, chosen places."""

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
        windows: of each layer, how many tokens back a token sees, itself included; None for all.
        masks: made once and used by all layers.
        places: by part and number of heads, where new keys and values of a shelf go; the same.
    """

    parts: list[ShelfPart | SequencePart]
    windows: tuple[int | None, ...] = ()
    masks: dict[tuple[int, int | None], Tensor | None] = field(default_factory=dict)
    places: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def rows(self, number: int, num_heads: int) -> Tensor:
        """[rows * heads] rows of a shelf's buffers, [rows * heads * capacity, width], to write."""
        key = (number, num_heads)
        if key not in self.places:
            part = self.parts[number]
            assert isinstance(part, ShelfPart)
            heads = torch.arange(part.size * num_heads, device=part.places.device)
            places = part.places.repeat_interleave(num_heads)
            self.places[key] = heads * part.shelf.capacity + places
        return self.places[key]

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
    """[rows, 1, 1, tokens] 0 where a row's new token sees a place, else minus infinity."""
    places = part.places[:, None]
    columns = torch.arange(part.num_tokens, device=places.device)[None]
    seen = columns <= places
    if window is not None:
        seen &= columns > places - window
    return torch.where(seen, 0.0, -torch.inf)[:, None, None]


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
        sliding_window: how many tokens back a token sees, itself included; some layers leave it to
            their mask, and the pass knows it.
        softcap: bounds the products (Gemma 2).
        **kwargs: what else layers hand over.

    Raises:
        TypeError: the layer's attention is another one.

    Returns:
        [1, tokens, heads, width of values], and no weights.
    """
    if unknown := [name for name in CHANGING if kwargs.get(name) is not None]:
        raise TypeError(f"attention with {', '.join(unknown)} cannot be packed")
    what: Pass = _thread.running
    if sliding_window is None and what.windows:
        sliding_window = what.windows[module.layer_idx]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    outputs = []
    for number, part in enumerate(what.parts):
        tokens = slice(part.start, part.start + part.size)
        mine = (query[0, :, tokens], (key[0, :, tokens], value[0, :, tokens]))
        how = _How(what, number, what.mask(number, sliding_window), scale, softcap)
        attend = _attend_shelf if isinstance(part, ShelfPart) else _attend
        outputs.append(attend(module.layer_idx, mine, how))
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, packed_attention)

Own = tuple[Tensor, Pair]


@dataclass(frozen=True)
class _How:
    """How a part of a pass attends: to what, and how products become weights."""

    what: Pass
    number: int
    mask: Tensor | None
    scale: float
    softcap: float | None


def _attend_shelf(layer: int, own: Own, how: _How) -> Tensor:
    """[rows, heads, width]"""
    query, (key, value) = own
    part = how.what.parts[how.number]
    assert isinstance(part, ShelfPart)
    num_rows, heads = part.size, key.shape[0]
    buffers = part.shelf.buffers(layer, (key, value))
    rows = how.what.rows(how.number, heads)
    for buffer, new in zip(buffers, (key, value), strict=True):
        flat = buffer[:num_rows].view(-1, buffer.shape[-1])
        flat.index_copy_(0, rows, new.transpose(0, 1).reshape(-1, new.shape[-1]))
    # Query heads that share keys are as many queries of one token: nothing is repeated.
    grouped = query.transpose(0, 1).reshape(num_rows, heads, -1, query.shape[-1])
    keys, values = (buffer[:num_rows, :, : part.num_tokens] for buffer in buffers)
    is_small = how.softcap is None and query.device.type == "cpu" and query.dtype == torch.float32
    products = _small_products if is_small else _products
    return products(grouped, (keys, values), how).reshape(num_rows, query.shape[0], -1)


def _attend(layer: int, own: Own, how: _How) -> Tensor:
    """[tokens, heads, width]"""
    query, new = own
    part = how.what.parts[how.number]
    assert isinstance(part, SequencePart)
    heads, num_tokens = new[0].shape[0], part.size
    before = part.sequence.length
    keys, values = part.sequence.buffers(layer, new)
    store((keys, values), new, before)
    seen = (keys[None, :, : before + num_tokens], values[None, :, : before + num_tokens])
    groups = query.shape[0] // heads
    grouped = query.reshape(1, heads, groups * num_tokens, -1)
    mask = None if how.mask is None else how.mask.to(query.device).repeat(groups, 1)
    out = _products(grouped, seen, replace(how, mask=mask))[0]
    # [heads of keys, groups * tokens, width]
    return out.reshape(query.shape[0], num_tokens, -1).transpose(0, 1)


def _small_products(query: Tensor, seen: Pair, how: _How) -> Tensor:
    """The same as `_products` for single tokens of many rows, where a CPU is twice as fast so.

    Args:
        query: [rows, heads of keys, groups, width].
        seen: [rows, heads of keys, tokens, width] each.
        how: with its mask, [rows, 1, 1, tokens].
    """
    keys, values = (each.flatten(0, 1) for each in seen)
    rows, heads, groups, _ = query.shape
    assert how.mask is not None
    mask = how.mask.expand(rows, heads, groups, -1).reshape(rows * heads, groups, -1)
    products = torch.baddbmm(mask, query.flatten(0, 1), keys.transpose(1, 2), alpha=how.scale)
    out = torch.bmm(products.softmax(-1), values)
    return out.view(rows, heads, groups, -1)


def _products(query: Tensor, seen: Pair, how: _How) -> Tensor:
    keys, values = seen
    mask = how.mask if how.mask is None or how.mask.dtype == torch.bool else how.mask.to(query)
    if how.softcap is None:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=how.scale)
    products = query @ keys.transpose(-1, -2) * how.scale
    products = torch.tanh(products / how.softcap) * how.softcap
    if mask is not None:
        hidden = ~mask if mask.dtype == torch.bool else mask < 0
        products = products.masked_fill(hidden, -torch.inf)
    return products.float().softmax(-1).to(values.dtype) @ values
