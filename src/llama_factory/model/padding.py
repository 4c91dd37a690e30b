"""Rows of tokens -> padded tensors, with as little padding as can be."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_factory.model.chat.encoding import EncodedRow

IGNORED = -100
"""Target of a position that is not trained."""
LAUNCH_TOKENS = 48
"""What one more pass through the model costs, in tokens' worth of time."""


def pad(rows: Sequence[EncodedRow]) -> tuple[Tensor, Tensor]:
    """Rows as tensors, padded on the right.

    Returns:
        ids: [rows, seq] token ids; padding is 0 and never looked at.
        targets: [rows, seq] the token each position must predict, IGNORED where none.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    targets = torch.full((len(rows), longest), IGNORED)
    for number, row in enumerate(rows):
        tokens = torch.tensor(row.ids)
        trained = torch.tensor(row.is_trained)
        ids[number, : len(tokens)] = tokens
        targets[number, : len(tokens) - 1] = torch.where(trained[1:], tokens[1:], IGNORED)
    return ids, targets


def by_length(rows: Sequence[EncodedRow], max_tokens: int) -> Iterator[list[int]]:
    """Numbers of rows that go through a model together: of like length, shortest first."""
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].ids))
    lengths = [len(rows[number].ids) for number in order]
    for start, end in cut(lengths, max_tokens=max_tokens, max_rows=max(1, len(rows))):
        yield order[start:end]


def is_worth_sharing(num_sequences: int, num_shared: int) -> bool:
    """Whether reading what sequences begin with once, in a pass of its own, is cheaper."""
    return (num_sequences - 1) * num_shared > LAUNCH_TOKENS


@dataclass(frozen=True)
class Alike:
    """What the sequences of units begin with in common.

    Attributes:
        width: sequences in a unit.
        own: [units] tokens that all sequences of a unit begin with.
        previous: [units] tokens that a unit and the one before it begin with; the first is 0.
    """

    width: int
    own: Sequence[int]
    previous: Sequence[int]


def cut(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int, alike: Alike | None = None
) -> list[tuple[int, int]]:
    """Cut units that lie in a row into runs of the least padded tokens plus launches.

    Exact, by dynamic programming: `best[j]` is the least cost of the first j units.

    Args:
        lengths: tokens of the longest sequence of each unit, usually a row.
        max_tokens: most tokens in a run with padding; a single longer unit is a run of its own.
        max_rows: most units in a run.
        alike: where what sequences begin with in common is read once.

    Returns:
        Start and end of each run.
    """
    return cut_at_cost(lengths, max_tokens=max_tokens, max_rows=max_rows, alike=alike)[0]


def cut_at_cost(
    lengths: Sequence[int], *, max_tokens: int, max_rows: int, alike: Alike | None = None
) -> tuple[list[tuple[int, int]], float]:
    """See `cut`; also what the runs cost together, in tokens' worth of time."""
    best, start_of = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        options = []
        for start, tokens, launches in _runs_to(end, lengths, max_rows, alike):
            if tokens > max_tokens and end - start > 1:
                break
            options.append((best[start] + tokens + launches * LAUNCH_TOKENS, start))
        cost, start = min(options)
        best.append(cost)
        start_of.append(start)
    return _runs_of(start_of), best[-1]


def fill(
    sizes: Sequence[int], shared: Sequence[int], *, max_tokens: int, max_rows: int
) -> list[tuple[int, int]]:
    """Cut units that are read end to end, without padding, into the fewest tokens plus launches.

    Args:
        sizes: tokens of each unit when it is read alone.
        shared: tokens of each that are not read again after the unit before it; the first is 0.
        max_tokens: most tokens in a run; a single longer unit is a run of its own.
        max_rows: most units in a run.

    Returns:
        Start and end of each run.
    """
    best, start_of = [0.0], [0]
    for end in range(1, len(sizes) + 1):
        options, tokens = [], 0
        for start in range(end - 1, max(-1, end - 1 - max_rows), -1):
            tokens += sizes[start] - (shared[start + 1] if start + 1 < end else 0)
            if tokens > max_tokens and end - start > 1:
                break
            options.append((best[start] + tokens + LAUNCH_TOKENS, start))
        cost, start = min(options)
        best.append(cost)
        start_of.append(start)
    return _runs_of(start_of)


def _runs_of(start_of: Sequence[int]) -> list[tuple[int, int]]:
    """Start and end of each run, from where the run that ends with each unit starts."""
    runs, end = [], len(start_of) - 1
    while end > 0:
        runs.append((start_of[end], end))
        end = start_of[end]
    return runs[::-1]


def _runs_to(
    end: int, lengths: Sequence[int], max_rows: int, alike: Alike | None
) -> Iterator[tuple[int, int, int]]:
    """Start, tokens and launches of every run that ends before `end`, the shortest first."""
    width, longest, shared = alike.width if alike else 1, 0, sys.maxsize
    for start in range(end - 1, max(-1, end - 1 - max_rows), -1):
        longest = max(longest, lengths[start])
        count = (end - start) * width
        if alike is None:
            yield start, count * longest, 1
            continue
        follows = alike.previous[start + 1] if start + 1 < end else sys.maxsize
        shared = min(shared, alike.own[start], follows)
        if is_worth_sharing(count, shared):
            yield start, count * (longest - shared) + shared, 2
        else:
            yield start, count * longest, 1
