"""Greedy decoding of many prompts at once, on token ids; knows no rows and no text.

Rows that end leave the batch and waiting ones take their place, so that no time is lost on
finished rows; what all prompts begin with goes through the model once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache
from transformers.utils import logging as transformers_logging

from llama_factory.inference.cache import Begun, CachedNetwork, chosen, joined, padded
from llama_factory.inference.likeliest import in_float32


@dataclass(frozen=True)
class Limits:
    """What may be in memory at once.

    Attributes:
        max_new_tokens: longest answer.
        max_rows: most rows answered at once.
        prompt_tokens: most prompt tokens in one pass, with padding.
        cache_tokens: most tokens whose keys and values are held.
    """

    max_new_tokens: int
    max_rows: int = 64
    prompt_tokens: int = 2048
    cache_tokens: int = 16384


@dataclass(frozen=True)
class Decoded:
    """A finished row: its prompt's `number`, and the `ids` of the answer with its end token."""

    number: int
    ids: tuple[int, ...]
    is_cut: bool


@dataclass
class _Batch:
    """Rows being answered.

    Attributes:
        written: the tokens of each answer by prompt number; the model has not read the last one.
        cache: what the model has read.
        mask: [rows, seq] 1 for tokens that were read, 0 for padding.
        ended: rows that are told and wait for others to leave together with.
    """

    written: dict[int, list[int]]
    cache: DynamicCache
    mask: Tensor
    ended: set[int] = field(default_factory=set)

    def with_rows(self, other: "_Batch") -> "_Batch":
        """Both batches as one, padded on the left."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        masks = [F.pad(each.mask, (width - each.mask.shape[1], 0)) for each in (self, other)]
        cache = joined(self.cache, other.cache)
        return _Batch(self.written | other.written, cache, torch.cat(masks), self.ended)

    def without_ended(self) -> "_Batch | None":
        """The rows that go on; None where all have ended."""
        rows = [row for row, number in enumerate(self.written) if number not in self.ended]
        if not rows:
            return None
        mask = self.mask[rows]
        start = int(mask.any(0).int().argmax())  # no row that is left has a token before it
        left = {number: ids for number, ids in self.written.items() if number not in self.ended}
        return _Batch(left, chosen(self.cache, rows, start=start), mask[:, start:])


class Decoder:
    """Greedy answers of one network, for which `can_cache` is true."""

    def __init__(self, network: Any, end_tokens: frozenset[int], limits: Limits) -> None:
        self._network = CachedNetwork(network)
        self._in_float32 = partial(in_float32, network)
        self._end_tokens = end_tokens
        self._limits = limits

    @torch.no_grad()
    def run(self, prompts: Sequence[Sequence[int]]) -> Iterator[Decoded]:
        """The answers, each as soon as it has ended.

        Args:
            prompts: token ids, none empty and none as long as what the network can read.
        """
        room = [self._network.context - len(prompt) for prompt in prompts]
        most = [min(self._limits.max_new_tokens, each) for each in room]
        waiting = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # longest first out
        shared = self._network.read_shared(prompts)
        batch: _Batch | None = None
        while waiting or batch is not None:
            while group := self._next_group(prompts, waiting, batch):
                started = self._start({i: prompts[i] for i in group}, shared)
                batch = batch.with_rows(started) if batch else started
            assert batch is not None
            yield from self._end(batch, most)
            batch = self._write(batch)

    def _next_group(
        self, prompts: Sequence[Sequence[int]], waiting: list[int], batch: _Batch | None
    ) -> list[int]:
        """Rows to begin with now, taken out of `waiting`; none while few places are free."""
        if not waiting:
            return []
        limits, longest = self._limits, len(prompts[waiting[-1]])
        width = max(longest, batch.mask.shape[1] if batch else 0) + limits.max_new_tokens
        most = min(limits.max_rows, max(1, limits.cache_tokens // width))
        free = most - (len(batch.written) if batch else 0)
        if batch and free < min(len(waiting), max(1, most // 4)):
            return []
        num_rows = min(free, len(waiting), max(1, limits.prompt_tokens // longest))
        return [waiting.pop() for _ in range(num_rows)]

    def _start(self, prompts: Mapping[int, Sequence[int]], shared: Begun | None) -> _Batch:
        """Prompts by their number, read, with the first token of each answer."""
        with self._in_float32():  # as the server chooses tokens
            begun = self._network.read(list(prompts.values()), shared)
        tokens = _likeliest(begun.logits)
        written = {number: [token] for number, token in zip(prompts, tokens, strict=True)}
        return _Batch(written, begun.cache, begun.mask)

    def _end(self, batch: _Batch, most: Sequence[int]) -> Iterator[Decoded]:
        for number, ids in batch.written.items():
            is_ended = ids[-1] in self._end_tokens
            if number in batch.ended or not (is_ended or len(ids) == most[number]):
                continue
            batch.ended.add(number)
            yield Decoded(number, tuple(ids), is_cut=not is_ended)

    def _write(self, batch: _Batch) -> _Batch | None:
        """The batch with one more token in every answer; None where all have ended.

        Ended rows stay until an eighth has ended, as leaving copies the cache.
        """
        if 8 * len(batch.ended) >= len(batch.written):
            left = batch.without_ended()
            if left is None:
                return None
            batch = left
        last = torch.tensor([[ids[-1]] for ids in batch.written.values()])
        batch.mask = F.pad(batch.mask, (0, 1), value=1)
        last = last.to(self._network.device)
        with self._in_float32():
            logits = self._network.logits(last, batch.mask, batch.cache, last=1)[:, 0]
        for ids, token in zip(batch.written.values(), _likeliest(logits), strict=True):
            ids.append(token)
        return batch


def _likeliest(logits: Tensor) -> list[int]:
    """The token with the highest score of each row, [rows, vocabulary]."""
    return [int(token) for token in logits.argmax(-1).tolist()]


@torch.no_grad()
def decode_by_generate(
    network: Any,
    end_tokens: frozenset[int],
    limits: Limits,
    prompts: Sequence[Sequence[int]],
) -> Iterator[Decoded]:
    """The same answers by Transformers' own loop, for networks that `Decoder` cannot run."""
    transformers_logging.set_verbosity_error()
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), limits.max_rows):
        numbers = order[start : start + limits.max_rows]
        ids, mask = padded([prompts[i] for i in numbers], network.device)
        with in_float32(network):
            out = network.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=limits.max_new_tokens,
                do_sample=False,
                repetition_penalty=1.0,
                pad_token_id=0,
                eos_token_id=sorted(end_tokens),
            )
        for number, answer in zip(numbers, out[:, ids.shape[1] :].tolist(), strict=True):
            yield _until_end(number, answer, end_tokens)


def _until_end(number: int, ids: Sequence[int], end_tokens: frozenset[int]) -> Decoded:
    end = next((place for place, token in enumerate(ids) if token in end_tokens), None)
    return Decoded(number, tuple(ids if end is None else ids[: end + 1]), is_cut=end is None)
