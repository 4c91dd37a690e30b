"""Greedy answers to many prompts with one network, on token ids: for evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llama_factory.inference.batch_engine import BatchEngine, Limits
from llama_factory.inference.places import reader_of
from llama_factory.inference.request import Request, Token

PREFIX_BYTES = 64_000_000
"""For what prompts begin with in common, such as instructions."""
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Decoded:
    """A finished row: its prompt's `number`, and the `ids` of the answer with its end token."""

    number: int
    ids: tuple[int, ...]
    is_cut: bool


def decode(
    network: Any,
    prompts: Sequence[Sequence[int]],
    end_tokens: frozenset[int],
    max_new_tokens: int,
    *,
    batch_tokens: int = 2048,
    max_rows: int = ROWS_AT_ONCE,
) -> Iterator[Decoded]:
    """The likeliest token after all that came before, again and again; each as soon as it ended.

    Args:
        network: in eval mode.
        prompts: token ids, none empty and none as long as what the network can read.
        end_tokens: which end an answer.
        max_new_tokens: longest answer.
        batch_tokens: most prompt tokens that go through the model at once; keys and values are held
            of eight times as many.
        max_rows: most rows answered at once.
    """
    reader = reader_of(network)
    limits = Limits(
        max_rows,
        chunk_tokens=batch_tokens,
        read_tokens=batch_tokens,
        cache_tokens=8 * batch_tokens,
        prefix_bytes=PREFIX_BYTES if len(prompts) > 1 else 0,
        keep_answers=False,
        max_drafts=0,
    )
    engine = BatchEngine(lambda _: reader, limits)
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
    numbers: dict[int, int] = {}
    for number in order:
        request = Request(tuple(prompts[number]), max_tokens=max_new_tokens, end_tokens=end_tokens)
        numbers[engine.submit(request)] = number
    written: dict[int, list[int]] = {ticket: [] for ticket in numbers}
    while not engine.is_idle:
        for event in engine.step():
            if isinstance(event, Token):
                written[event.ticket].append(event.id)
                continue
            if event.error is not None:
                raise event.error
            ids = tuple(written.pop(event.ticket))
            yield Decoded(numbers[event.ticket], ids, is_cut=event.reason != "stop")
