"""The rows of a source as the sequences each stands for: row by row, in parts, or packed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llama_factory.model.chat.encodings import Sequences
from llama_factory.model.chat.token_cache import Cut
from llama_factory.training.objectives import Objective

MOST_OPEN_PACKS = 64
"""Packs that still take rows while others are filled."""

Part = tuple[int, int]
"""A sequence: number of its row, and its number in the row."""


class Encoded(Protocol):
    """Rows as the sequences they stand for, read as they are asked for."""

    @property
    def cut(self) -> Cut:
        """What they lost because they are too long."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: int, /) -> Sequences: ...
    def lengths(self, place: int, /) -> tuple[int, ...]:
        """Tokens of each sequence."""


@dataclass(frozen=True)
class Items:
    """What a source gives to updates, one item for each row of an update.

    Attributes:
        rows: as the sequences they stand for.
        objective: what is minimised on them.
        parts: the sequences of each item; None where an item is a row.
        reference: log-probability of each sequence of an item under the model at the start of the
            run, for items that a run needs it of.
    """

    rows: Encoded
    objective: Objective
    parts: tuple[tuple[Part, ...], ...] | None = None
    reference: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    _num_tokens: dict[int, int] = field(default_factory=dict, compare=False)

    def __len__(self) -> int:
        return len(self.rows) if self.parts is None else len(self.parts)

    def __getitem__(self, index: int) -> Sequences:
        if self.parts is None:
            return self.rows[index]
        return tuple(self.rows[row][part] for row, part in self.parts[index])

    def origins(self, index: int) -> list[int]:
        """Numbers of the rows that an item is made of."""
        return [index] if self.parts is None else [row for row, _ in self.parts[index]]

    def num_tokens(self, index: int) -> int:
        """Length of an item, without reading its tokens; asked again it is known."""
        if index not in self._num_tokens:
            self._num_tokens[index] = self._count(index)
        return self._num_tokens[index]

    def _count(self, index: int) -> int:
        if self.parts is None:
            return sum(self.rows.lengths(index))
        return sum(self.rows.lengths(row)[part] for row, part in self.parts[index])

    def reference_of(self, index: int) -> tuple[float, ...]:
        """Log-probability of each sequence under the reference, in nats; zeros where unused."""
        return self.reference.get(index) or (0.0,) * len(self[index])


def by_part(rows: Encoded, objective: Objective) -> Items:
    """Every sequence an item of its own: the parts of long documents."""
    lengths = map(rows.lengths, range(len(rows)))
    parts = [((row, part),) for row, each in enumerate(lengths) for part in range(len(each))]
    return Items(rows, objective, tuple(parts))


def packed(rows: Encoded, objective: Objective, max_tokens: int) -> Items:
    """Sequences put together into items of nearly `max_tokens`; they never see each other.

    Best fit in the order of the rows: a sequence goes into the fullest open pack that has room.
    """
    done: list[list[Part]] = []
    still_open: list[tuple[int, list[Part]]] = []
    for length, part in _parts(rows):
        fitting = [pack for pack in still_open if pack[0] + length <= max_tokens]
        filled, members = max(fitting, key=lambda pack: pack[0], default=(0, []))
        still_open = [pack for pack in still_open if pack[1] is not members]
        still_open.append((filled + length, [*members, part]))
        if len(still_open) > MOST_OPEN_PACKS:
            fullest = max(still_open, key=lambda pack: pack[0])
            still_open.remove(fullest)
            done.append(fullest[1])
    done += [members for _, members in still_open]
    return Items(rows, objective, tuple(map(tuple, sorted(done))))


def _parts(rows: Encoded) -> Iterator[tuple[int, Part]]:
    for row in range(len(rows)):
        for part, length in enumerate(rows.lengths(row)):
            yield length, (row, part)
