"""Keys and values of prompts that were read before, so that their beginnings are not read again.

A tree of blocks of tokens for each version. A block is the same only where all before it are, and
the least recently used leave first. What one version has read never serves another one, nor a
version that was loaded anew.
"""

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Several
from dataclasses import dataclass, field

import torch

from llama_factory.inference.keys_values import Pair, Sequence, capacity_for, num_bytes

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
        sequence.capacity = capacity_for(len(ids))
        for layer in blocks[0].held:
            keys, values = (
                torch.cat([block.held[layer][n] for block in blocks], dim=1) for n in (0, 1)
            )
            for buffer, part in zip(
                sequence.buffers(layer, (keys, values)), (keys, values), strict=True
            ):
                buffer[:, : part.shape[1]] = part
        sequence.length = len(blocks) * BLOCK
        self._touch(blocks)
        return sequence.length

    def num_known(self, version: str, ids: Several[int]) -> int:
        """How many tokens of a prompt need not be read."""
        return len(self._known(version, ids)) * BLOCK

    @torch.inference_mode()
    def keep(self, sequence: Sequence, ids: Several[int]) -> None:
        """Keep what a sequence has read of `ids`, as far as it makes whole blocks."""
        num_blocks = min(sequence.length, len(ids)) // BLOCK
        if not num_blocks:
            return
        block = self._roots.setdefault(sequence.version, _Block((), None))
        held, path = sequence.held(), []
        for number in range(num_blocks):
            part = _ids(ids, number)
            block = block.children.get(part) or self._add(block, part, held, number * BLOCK)
            path.append(block)
        self._touch(path)
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
        if not self._used:
            return False
        leaf = next(iter(self._used.values()))
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

    def _touch(self, path: Iterable[_Block]) -> None:
        """Blocks that follow each other were used; none is older than those that go on from it."""
        for block in reversed(list(path)):
            self._used.move_to_end(id(block))

    def _add(self, parent: _Block, ids: tuple[int, ...], held: Held, start: int) -> _Block:
        block = _Block(ids, parent, {n: _copied(pair, start) for n, pair in held.items()})
        parent.children[ids] = block
        self._used[id(block)] = block
        self.num_bytes += num_bytes(block.held.values())
        return block

    def _drop(self, block: _Block) -> None:
        del self._used[id(block)]
        self.num_bytes -= num_bytes(block.held.values())


def is_shared_beyond(first: Several[int], second: Several[int], num_tokens: int) -> bool:
    """Whether two prompts begin with more whole blocks than those of `num_tokens` tokens.

    The second keeps one token to read.
    """
    least = (num_tokens // BLOCK + 1) * BLOCK
    if least > min(len(first), len(second) - 1):
        return False
    # They differ in the last of these blocks most often: it is compared first.
    start = least - BLOCK
    return first[start:least] == second[start:least] and first[:start] == second[:start]


def _ids(ids: Several[int], number: int) -> tuple[int, ...]:
    return tuple(ids[number * BLOCK : (number + 1) * BLOCK])


def _copied(pair: Pair, start: int) -> Pair:
    # Each block has memory of its own, so that what is dropped is free.
    keys, values = (t[:, start : start + BLOCK].clone() for t in pair)
    return keys, values
