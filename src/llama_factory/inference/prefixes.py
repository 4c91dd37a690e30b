"""Keys and values of prompts that were read before, so that their beginnings are not read again.

A tree of blocks of tokens for each version. A block is the same only where all before it are, and
the least recently used leave first. What one version has read never serves another one, nor a
version that was loaded anew.
"""

from collections import OrderedDict
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import torch

from llama_factory.inference.keys_values import Pair, Sequence, capacity_for, num_bytes
from llama_factory.model.chat.tokens import first_difference

BLOCK = 16
"""Tokens of a block."""

Held = dict[int, Pair]


@dataclass(eq=False)
class _Block:
    """Keys and values of `BLOCK` tokens, after those of `parent`."""

    ids: tuple[int, ...]
    parent: "_Block | None"
    held: Held = field(default_factory=dict)
    children: dict[tuple[int, ...], "_Block"] = field(default_factory=dict)


class Prefixes:
    """What may be reused, up to `max_bytes`.

    Attributes:
        num_bytes: what it takes now.
    """

    def __init__(self, max_bytes: int) -> None:
        self.num_bytes = 0
        self._max_bytes = max_bytes
        self._roots: dict[str, _Block] = {}
        self._used: OrderedDict[int, _Block] = OrderedDict()

    @torch.inference_mode()
    def reuse(self, sequence: Sequence, ids: Several[int]) -> int:
        """Let a new sequence hold what is known of a prompt; at least one token is left to read.

        Returns:
            How many tokens it holds.
        """
        blocks = self._known(sequence.version, ids)
        if not blocks:
            return 0
        sequence.capacity = capacity_for(len(blocks) * BLOCK)
        for layer in blocks[0].held:
            keys, values = (
                torch.cat([block.held[layer][n] for block in blocks], dim=1) for n in (0, 1)
            )
            for buffer, part in zip(
                sequence.buffers(layer, (keys, values)), (keys, values), strict=True
            ):
                buffer[:, : part.shape[1]] = part
        sequence.length = len(blocks) * BLOCK
        for block in blocks:
            self._used.move_to_end(id(block))
        return sequence.length

    def num_known(self, version: str, ids: Several[int]) -> int:
        """How many tokens of a prompt need not be read."""
        return len(self._known(version, ids)) * BLOCK

    @torch.inference_mode()
    def keep(self, sequence: Sequence, ids: Several[int]) -> None:
        """Keep what a sequence has read of `ids`, as far as it makes whole blocks."""
        num_blocks = min(sequence.length, len(ids)) // BLOCK
        block = self._roots.setdefault(sequence.version, _Block((), None))
        number = 0
        while number < num_blocks and (known := block.children.get(_ids(ids, number))):
            block, number = known, number + 1
        if number == num_blocks:
            return
        start, end = number * BLOCK, num_blocks * BLOCK
        copied = {n: _copied(pair, start, end) for n, pair in sequence.held().items()}
        for place in range(number, num_blocks):
            block = self._add(block, _ids(ids, place), copied, (place - number) * BLOCK)
        while self.num_bytes > self._max_bytes and self.shrink():
            pass

    def forget(self, version: str) -> None:
        """Drop all that a version has read."""
        root = self._roots.pop(version, None)
        waiting = list(root.children.values()) if root else []
        while waiting:
            block = waiting.pop()
            waiting += block.children.values()
            self._drop(block)

    def shrink(self) -> bool:
        """Drop the block that was not used for the longest; whether there was one."""
        leaf = next((block for block in self._used.values() if not block.children), None)
        if leaf is None:
            return False
        assert leaf.parent is not None
        del leaf.parent.children[leaf.ids]
        self._drop(leaf)
        return True

    def _known(self, version: str, ids: Several[int]) -> list[_Block]:
        block, blocks = self._roots.get(version), []
        for number in range((len(ids) - 1) // BLOCK):
            block = block and block.children.get(_ids(ids, number))
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _add(self, parent: _Block, ids: tuple[int, ...], copied: Held, start: int) -> _Block:
        held = {n: _part(pair, start) for n, pair in copied.items()}
        block = _Block(ids, parent, held)
        parent.children[ids] = block
        self._used[id(block)] = block
        self.num_bytes += num_bytes(held.values())
        return block

    def _drop(self, block: _Block) -> None:
        del self._used[id(block)]
        self.num_bytes -= num_bytes(block.held.values())


def num_shared(first: Several[int], second: Several[int]) -> int:
    """How many tokens of whole blocks two prompts begin with; the second keeps one to read."""
    most = min(len(first), len(second) - 1)
    same = min(most, first_difference(tuple(first), tuple(second)))
    return same // BLOCK * BLOCK


def _ids(ids: Several[int], number: int) -> tuple[int, ...]:
    return tuple(ids[number * BLOCK : (number + 1) * BLOCK])


def _copied(pair: Pair, start: int, end: int) -> Pair:
    keys, values = (t[:, start:end].clone() for t in pair)
    return keys, values


def _part(pair: Pair, start: int) -> Pair:
    keys, values = (t[:, start : start + BLOCK] for t in pair)
    return keys, values
