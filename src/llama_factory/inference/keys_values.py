"""Where keys and values of sequences live while they are answered: rows of shared buffers.

Sequences of similar length share a `Shelf`, so that one attention call serves all of them without
copying; a sequence that outgrows its shelf moves to the next. While its prompt is read a sequence
has buffers of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

SMALLEST = 128
"""Tokens for which the smallest shelf has room; each next one has room for twice as many."""
Pair = tuple[Tensor, Tensor]
"""Keys and values of one layer, [..., heads, tokens, width] each."""


@dataclass(eq=False)
class Sequence:
    """Tokens of one prompt and its answer that a network has read.

    Attributes:
        version: whose weights read them.
        length: how many tokens are held; what lies behind is overwritten.
        shelf: the buffers that hold them; None while it has its own.
        row: of the shelf.
        layers: its own buffers by layer, [heads, capacity, width] each.
        capacity: tokens for which there is room.
    """

    version: str
    length: int = 0
    shelf: "Shelf | None" = None
    row: int = 0
    layers: dict[int, Pair] = field(default_factory=dict)
    capacity: int = SMALLEST

    def buffers(self, layer: int, like: Pair) -> Pair:
        """Where keys and values of a layer lie, [heads, capacity, width] each.

        Args:
            layer: its number.
            like: new keys and values, [heads, tokens, width]; buffers are made for such.
        """
        if self.shelf is not None:
            keys, values = self.shelf.buffers(layer, like)
            return keys[self.row], values[self.row]
        if layer not in self.layers:
            keys, values = (t.new_zeros(t.shape[0], self.capacity, t.shape[2]) for t in like)
            self.layers[layer] = (keys, values)
        return self.layers[layer]

    def held(self) -> dict[int, Pair]:
        """What is held of each layer, [heads, length, width] each, as views."""
        if self.shelf is None:
            pairs = self.layers
        else:
            pairs = {n: (k[self.row], v[self.row]) for n, (k, v) in self.shelf.layers.items()}
        return {n: (k[:, : self.length], v[:, : self.length]) for n, (k, v) in pairs.items()}


@dataclass(eq=False)
class Shelf:
    """Buffers of sequences that have at most `capacity` tokens, one a row, without gaps.

    Attributes:
        capacity: tokens a row.
        sequences: by row.
        layers: by layer, [rows, heads, capacity, width] each; there may be more rows than
            sequences.
    """

    capacity: int
    sequences: list[Sequence] = field(default_factory=list)
    layers: dict[int, Pair] = field(default_factory=dict)
    num_rows: int = 0

    def buffers(self, layer: int, like: Pair) -> Pair:
        """Buffers of a layer, made where there are none; see `Sequence.buffers`."""
        if layer not in self.layers:
            shapes = [(self.num_rows, t.shape[0], self.capacity, t.shape[2]) for t in like]
            keys, values = (t.new_zeros(s) for t, s in zip(like, shapes, strict=True))
            self.layers[layer] = (keys, values)
        return self.layers[layer]

    def add(self, sequence: Sequence) -> None:
        """Take a sequence in, with what it holds."""
        if len(self.sequences) == self.num_rows:
            self._resize(_room_for(self.num_rows + 1))
        row = len(self.sequences)
        for layer, held in sequence.held().items():
            for buffer, part in zip(self.buffers(layer, held), held, strict=True):
                buffer[row, :, : sequence.length] = part
                # Longer rows are looked at beyond it, masked: NaN would come through the mask.
                buffer[row, :, sequence.length :] = 0
        leave(sequence)
        self.sequences.append(sequence)
        sequence.shelf, sequence.row, sequence.capacity = self, row, self.capacity

    def remove(self, sequence: Sequence) -> None:
        """Let a sequence go; the last row moves into its place."""
        last = self.sequences.pop()
        if last is not sequence:
            for keys, values in self.layers.values():
                for buffer in (keys, values):
                    buffer[sequence.row] = buffer[last.row]
            self.sequences[sequence.row] = last
            last.row = sequence.row
        sequence.shelf = None
        if not self.sequences:
            self.layers, self.num_rows = {}, 0
        elif len(self.sequences) * 2 < self.num_rows:
            self._resize(_room_for(len(self.sequences)))

    def _resize(self, num_rows: int) -> None:
        kept = min(num_rows, len(self.sequences))
        for layer, pair in self.layers.items():
            fresh = tuple(t.new_zeros(num_rows, *t.shape[1:]) for t in pair)
            for new, old in zip(fresh, pair, strict=True):
                new[:kept] = old[:kept]
            self.layers[layer] = (fresh[0], fresh[1])
        self.num_rows = num_rows


def _room_for(num_sequences: int) -> int:
    """Rows of a shelf: growing by a share keeps copies rare."""
    return num_sequences + num_sequences // 4


def leave(sequence: Sequence) -> None:
    """Free what a sequence holds."""
    if sequence.shelf is not None:
        sequence.shelf.remove(sequence)
    sequence.layers = {}


class Shelves:
    """All shelves of a network, by capacity."""

    def __init__(self) -> None:
        self._shelves: dict[int, Shelf] = {}

    def settle(self, sequence: Sequence, num_tokens: int) -> None:
        """Put a sequence on the shelf for `num_tokens` tokens, where it may grow."""
        capacity = capacity_for(num_tokens)
        if sequence.shelf is None or sequence.capacity < capacity:
            self._shelves.setdefault(capacity, Shelf(capacity)).add(sequence)
            self._shelves = {n: shelf for n, shelf in self._shelves.items() if shelf.sequences}

    def make_room(self, sequence: Sequence, num_tokens: int) -> None:
        """Let a sequence hold `num_tokens` tokens."""
        if num_tokens <= sequence.capacity:
            return
        if sequence.shelf is not None:
            self.settle(sequence, num_tokens)
            return
        capacity = capacity_for(num_tokens)
        for layer, held in sequence.held().items():
            keys, values = (t.new_zeros(t.shape[0], capacity, t.shape[2]) for t in held)
            for buffer, part in zip((keys, values), held, strict=True):
                buffer[:, : sequence.length] = part
            sequence.layers[layer] = (keys, values)
        sequence.capacity = capacity


def capacity_for(num_tokens: int) -> int:
    """For how many tokens there is room on the shelf that so many fit on."""
    capacity = SMALLEST
    while capacity < num_tokens:
        capacity *= 2
    return capacity


def num_bytes(pairs: Iterable[Pair]) -> int:
    """What keys and values take."""
    return sum(t.numel() * t.element_size() for pair in pairs for t in pair)


def store(buffers: Pair, new: Pair, start: int) -> None:
    """Write new keys and values, [heads, tokens, width], behind `start` tokens."""
    for buffer, part in zip(buffers, new, strict=True):
        buffer[:, start : start + part.shape[1]] = part
