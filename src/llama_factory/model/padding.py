"""Rows of tokens -> padded tensors, with as little padding as can be."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from llama_factory.model.masks import EncodedRow

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


def cut(lengths: Sequence[int], *, max_tokens: int, max_rows: int) -> list[tuple[int, int]]:
    """Cut rows sorted by length into runs of the least padded tokens plus launches.

    Exact, by dynamic programming: `best[j]` is the least cost of the first j rows.

    Args:
        lengths: ascending.
        max_tokens: most tokens in a run with padding; a single longer row is a run of its own.
        max_rows: most rows in a run.

    Returns:
        Start and end of each run.
    """
    best, start_of = [0.0], [0]
    for end in range(1, len(lengths) + 1):
        options = []
        for start in range(end - 1, max(-1, end - 1 - max_rows), -1):
            tokens = (end - start) * lengths[end - 1]
            if tokens > max_tokens and end - start > 1:
                break
            options.append((best[start] + tokens + LAUNCH_TOKENS, start))
        cost, start = min(options)
        best.append(cost)
        start_of.append(start)
    runs, end = [], len(lengths)
    while end > 0:
        runs.append((start_of[end], end))
        end = start_of[end]
    return runs[::-1]
