"""In which order the rows of a source are taken: shuffled, with every kind of row evenly spread.

Few old rows are mixed into a round, so a shuffle alone may leave out some answers of a task, or
give a task half of another one's rows. Each kind is spread evenly over the whole order (systematic
sampling; Cochran, Sampling Techniques, 1977, chapter 8): first the groups, then a group's answers.
"""

from collections.abc import Hashable, Sequence

import torch

Kind = tuple[Hashable, ...]
"""Of one row, from the coarsest division to the finest."""


def shuffled(size: int, seed: int, kinds: Sequence[Kind] = ()) -> list[int]:
    """The numbers below `size` in a random order.

    Args:
        size: how many.
        seed: of the order.
        kinds: [size] kind of each, all of one depth; every division is spread evenly. Empty: the
            order is random in all respects.
    """
    draw = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=draw).tolist()
    return _spread(order, kinds, 0, draw) if kinds else order


def _spread(
    order: list[int], kinds: Sequence[Kind], level: int, draw: torch.Generator
) -> list[int]:
    """Rows of one division, those of its parts as evenly among each other as can be."""
    if level == len(kinds[order[0]]):
        return order
    parts: dict[Hashable, list[int]] = {}
    for row in order:
        parts.setdefault(kinds[row][level], []).append(row)
    offsets = torch.rand(len(parts), generator=draw).tolist()
    placed = [
        ((place + offset) / len(part), row)
        for offset, part in zip(offsets, parts.values(), strict=True)
        for place, row in enumerate(_spread(part, kinds, level + 1, draw))
    ]
    return [row for _, row in sorted(placed)]
