"""Causal attention of rows that lie end to end, by matrix products in blocks; exact.

Queries that share keys (grouped-query attention) are more rows of one product. Weights are computed
again in the backward pass, so that no [tokens, tokens] matrix is kept. They are in float32 whatever
the format of the states, and so are sums over blocks, as in the kernels that this stands for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from llama_factory.model.quick.layout import Stretch

BLOCK = 128
"""Tokens whose products are made together: the weights of a block stay in a core's cache."""


@dataclass(frozen=True)
class Heads:
    """The shape of an attention.

    Attributes:
        queries: number of query heads.
        keys: number of heads of keys and values.
        width: of a head.
        scale: of the products.
    """

    queries: int
    keys: int
    width: int
    scale: float

    @property
    def groups(self) -> int:
        """Query heads that share keys."""
        return self.queries // self.keys

    @property
    def sizes(self) -> list[int]:
        """Columns of queries, keys and values that lie side by side."""
        shared = self.keys * self.width
        return [self.queries * self.width, shared, shared]


def attend(joined: Tensor, stretches: Sequence[Stretch], heads: Heads) -> Tensor:
    """What every token takes from those it sees.

    Args:
        joined: [tokens, queries + keys + values] side by side, positions applied.
        stretches: cover the tokens.
        heads: the shape.

    Returns:
        [tokens, query heads * width].
    """
    query, key, value = torch.split(joined, heads.sizes, 1)
    out, exact = torch.empty_like(query), _exact(joined.dtype)
    for stretch in stretches:
        queries = _grouped(query[stretch.own], heads).to(exact).mul_(heads.scale)
        keys, values = (_seen(each, stretch, heads) for each in (key, value))
        keys = keys.to(exact)
        target = _by_head(out[stretch.own], heads)
        for start, end in _blocks(stretch.size):
            weights = _weights(queries, keys, stretch, (start, end), heads).to(value.dtype)
            part = weights @ values[:, : stretch.num_before + end]
            target[:, start:end] = _unflat(part, heads)
    return out


def attend_back(joined: Tensor, grad: Tensor, stretches: Sequence[Stretch], heads: Heads) -> Tensor:
    """The gradient of `joined`.

    Args:
        joined: see `attend`.
        grad: [tokens, query heads * width] of the result.
        stretches: see `attend`.
        heads: see `attend`.
    """
    query, key, value = torch.split(joined, heads.sizes, 1)
    result = torch.zeros_like(joined)
    to_query, to_key, to_value = torch.split(result, heads.sizes, 1)
    exact = _exact(joined.dtype)
    for stretch in stretches:
        queries, pulls = (_grouped(each[stretch.own], heads) for each in (query, grad))
        keys, values = (_seen(each, stretch, heads) for each in (key, value))
        exact_queries, exact_keys = queries.to(exact) * heads.scale, keys.to(exact)
        key_pulls, value_pulls = (torch.zeros_like(exact_keys) for _ in range(2))
        target = _by_head(to_query[stretch.own], heads)
        for start, end in _blocks(stretch.size):
            rows = slice(start * heads.groups, end * heads.groups)
            seen = slice(stretch.num_before + end)
            weights = _weights(exact_queries, exact_keys, stretch, (start, end), heads)
            _add_product(value_pulls[:, seen], weights.to(value.dtype).mT, pulls[:, rows])
            products = (pulls[:, rows] @ values[:, seen].mT).to(exact)
            products = torch._softmax_backward_data(products, weights, -1, exact).mul_(heads.scale)
            products = products.to(value.dtype)
            _add_product(key_pulls[:, seen], products.mT, queries[:, rows])
            target[:, start:end] = _unflat(products @ keys[:, seen], heads)
        _add_seen(to_key, key_pulls, stretch, heads)
        _add_seen(to_value, value_pulls, stretch, heads)
    return result


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, BLOCK):
        yield start, min(start + BLOCK, size)


def _unflat(x: Tensor, heads: Heads) -> Tensor:
    """[heads of keys, tokens * groups, width] -> [heads of keys, tokens, groups, width]."""
    return x.view(heads.keys, -1, heads.groups, heads.width)


def _by_head(x: Tensor, heads: Heads) -> Tensor:
    """[tokens, query heads * width] -> [heads of keys, tokens, groups, width], the same memory."""
    return x.view(len(x), heads.keys, heads.groups, heads.width).transpose(0, 1)


def _exact(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _grouped(x: Tensor, heads: Heads) -> Tensor:
    """[heads of keys, tokens * groups, width], a copy."""
    shape = (heads.keys, len(x), heads.groups, heads.width)
    return x.new_empty(shape).copy_(_by_head(x, heads)).flatten(1, 2)


def _seen(x: Tensor, stretch: Stretch, heads: Heads) -> Tensor:
    """[heads of keys, tokens, width] of all tokens that a stretch sees, a copy."""
    parts = [x[part] for part in stretch.seen]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.view(len(whole), heads.keys, heads.width).transpose(0, 1).contiguous()


def _add_product(target: Tensor, one: Tensor, other: Tensor) -> None:
    if target.dtype == one.dtype:
        target.baddbmm_(one, other)
    else:
        target += one @ other


def _add_seen(target: Tensor, pulls: Tensor, stretch: Stretch, heads: Heads) -> None:
    """Add gradients [heads of keys, tokens, width] to those of the tokens that were seen."""
    start = 0
    for part in stretch.seen:
        size = part.stop - part.start
        place = target[part].view(size, heads.keys, heads.width)
        place += pulls[:, start : start + size].transpose(0, 1)
        start += size


def _weights(
    queries: Tensor, keys: Tensor, stretch: Stretch, block: tuple[int, int], heads: Heads
) -> Tensor:
    """[heads of keys, tokens of the block * groups, tokens seen], rows of which add up to 1."""
    start, end = block
    before = stretch.num_before
    rows = slice(start * heads.groups, end * heads.groups)
    products = queries[:, rows] @ keys[:, : before + end].mT
    size = end - start
    products[:, :, before + start :] += _later(heads.groups, queries.dtype)[
        : size * heads.groups, :size
    ]
    return products.softmax(-1)


@lru_cache(maxsize=16)
def _later(groups: int, dtype: torch.dtype) -> Tensor:
    """[tokens of a block * groups, tokens of a block] minus infinity where a token comes later."""
    hidden = torch.full((BLOCK, BLOCK), -torch.inf, dtype=dtype).triu_(1)
    return hidden.repeat_interleave(groups, 0)
