"""Rows of token ids end to end: no padding, and what rows begin with in common once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from llama_factory.model.chat.tokens import first_difference

LEAST_SHARED = 16
"""Tokens that two rows must begin with in common to be read once: each time costs some calls."""


@dataclass(frozen=True)
class Stretch:
    """The tokens of a row that the row before it does not have.

    Attributes:
        start: place of its first token in the pass.
        size: number of its tokens.
        before: places of the tokens that it goes on from, in their order.
    """

    start: int
    size: int
    before: tuple[slice, ...] = ()

    @property
    def own(self) -> slice:
        """Its places."""
        return slice(self.start, self.start + self.size)

    @property
    def seen(self) -> tuple[slice, ...]:
        """The places of all tokens that its last one sees."""
        return (*self.before, self.own)

    @cached_property
    def num_before(self) -> int:
        """How many tokens it goes on from."""
        return sum(part.stop - part.start for part in self.before)


@dataclass(frozen=True)
class RowLayout:
    """What one pass through a network reads.

    Attributes:
        ids: [tokens] token ids, row after row.
        positions: [tokens] the place of each in its row.
        places: [rows, seq] the place in the pass of every token of the padded rows; anything where
            there is padding.
        stretches: cover the pass.
        sizes: [rows] how many tokens of each row are read, its last ones.
    """

    ids: Tensor
    positions: Tensor
    places: Tensor
    stretches: tuple[Stretch, ...]
    sizes: tuple[int, ...]


def end_to_end(ids: Tensor, lengths: Sequence[int], *, shares: bool) -> RowLayout:
    """Lay rows one behind the other.

    Args:
        ids: [rows, seq] token ids, padded on the right.
        lengths: of the rows, without padding.
        shares: whether what a row and the one before it begin with in common is read once.
    """
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    places = torch.zeros(ids.shape, dtype=torch.long)
    tokens: list[int] = []
    positions: list[int] = []
    stretches = []
    path: tuple[slice, ...] = ()
    for number, row in enumerate(rows):
        common = shared_tokens(rows[number - 1], row) if shares and number else 0
        path = _first(path, common)
        stretch = Stretch(len(tokens), len(row) - common, path)
        path = stretch.seen
        tokens += row[common:]
        positions += range(common, len(row))
        places[number, : len(row)] = torch.cat([torch.arange(p.start, p.stop) for p in path])
        stretches.append(stretch)
    made = [torch.tensor(values, device=ids.device) for values in (tokens, positions)]
    some = tuple(stretch for stretch in stretches if stretch.size)
    sizes = tuple(stretch.size for stretch in stretches)
    return RowLayout(made[0], made[1], places.to(ids.device), some, sizes)


def shared_tokens(row: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens of a row are not read again after another one."""
    common = first_difference(row, other)
    return common if common >= LEAST_SHARED else 0


def _first(path: tuple[slice, ...], num_tokens: int) -> tuple[slice, ...]:
    """The parts of a path that hold its first tokens."""
    found = []
    for part in path:
        size = min(num_tokens, part.stop - part.start)
        if size:
            found.append(slice(part.start, part.start + size))
        num_tokens -= size
    return tuple(found)
