"""Which of a row's options a model finds likely; every prompt is read once for all its options."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn import functional as F

from llama_factory.core.types import Example, Message
from llama_factory.evaluation.answered import TaskRow
from llama_factory.evaluation.likelihood import row_likelihoods
from llama_factory.inference.cache import Begun, CachedNetwork, can_cache, shared_tokens
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import EncodedRow, encode
from llama_factory.model.padding import IGNORED, cut

Choice = Sequence[EncodedRow]
"""One prompt with each of its options."""
Ids = tuple[int, ...]


@torch.no_grad()
def option_likelihoods(
    model: AdaptedModel, rows: Sequence[TaskRow], *, batch_tokens: int
) -> list[list[float]]:
    """For each option the summed log-probability of its tokens and the end token, in nats.

    What all options of a row begin with is left out of their sums: only differences between the
    options of one row mean something.

    Args:
        model: in eval mode.
        rows: with their options.
        batch_tokens: most prompt tokens that go through the model at once.

    Returns:
        One list a row; empty where the row does not fit the model's template or length.
    """
    encoded = {number: _encoded(model, row) for number, row in enumerate(rows)}
    choices = {number: codes for number, codes in encoded.items() if codes}
    shared = {number: _num_shared(codes) for number, codes in choices.items()}
    if not can_cache(model.network) or not all(shared.values()):
        return [_each_alone(model, row, batch_tokens) for row in rows]
    network = CachedNetwork(model.network)
    begun = {number: choices[number][0].ids[:num] for number, num in shared.items()}
    prefix = network.read_shared(list(begun.values()))
    order = sorted(shared, key=shared.__getitem__)
    lengths = [shared[number] for number in order]
    found: list[list[float]] = [[] for _ in rows]
    for start, end in cut(lengths, max_tokens=batch_tokens, max_rows=len(order)):
        numbers = order[start:end]
        read = network.read([begun[i] for i in numbers], prefix)
        sums = _sums(network, read, [_rests(choices[i], shared[i]) for i in numbers])
        for i, values in zip(numbers, sums.tolist(), strict=True):
            found[i] = values[: len(choices[i])]
    return found


def _with_options(row: TaskRow) -> list[Example]:
    turns = row.example.prompt
    answers = [Message("assistant", option) for option in row.options]
    return [replace(row.example, messages=(*turns, answer)) for answer in answers]


def _encoded(model: AdaptedModel, row: TaskRow) -> list[EncodedRow]:
    """The row with each option as its answer; nothing where one of them is not read whole."""
    options = replace(model.options, train_on_prompt=False, mask_history=True)
    codes = [encode(each, model.tokenizer, options) for each in _with_options(row)]
    whole = [code for code in codes if isinstance(code, EncodedRow) and not code.lost_tokens]
    return whole if len(whole) == len(codes) else []


def _each_alone(model: AdaptedModel, row: TaskRow, batch_tokens: int) -> list[float]:
    """The same with the prompt read for every option, for networks that keep more than a cache."""
    found = row_likelihoods(model, _with_options(row), batch_tokens=batch_tokens)
    return [-each.nats for each in found] if all(each.tokens for each in found) else []


def _num_shared(options: Choice) -> int:
    """Tokens that all options begin with; each keeps at least one of its own."""
    most = min(len(code.ids) for code in options) - 1
    return shared_tokens([code.ids for code in options], most)


def _rests(options: Choice, num_shared: int) -> list[Ids]:
    """What each option adds to the tokens that all of them begin with."""
    return [code.ids[num_shared:] for code in options]


def _sums(network: CachedNetwork, read: Begun, rests: Sequence[Sequence[Ids]]) -> Tensor:
    """[rows, options] log-probabilities; 0 where a row has fewer options.

    Args:
        network: that has read the prompts.
        read: the prompts.
        rests: for each row, what its options add.
    """
    columns = []
    for each in zip_longest(*rests, fillvalue=()):
        longest = max(map(len, each))
        ids, targets = _right_padded(each, network.device)
        logits = read.logits[:, None]
        if longest > 1:
            wider = F.pad(read.mask, (0, longest - 1), value=1)
            later = network.logits(ids[:, :-1], wider, read.cache, last=longest - 1)
            logits = torch.cat([logits, later], dim=1)
            read.cache.crop(1 - longest)  # as if this option had never been read
        columns.append(_chosen(logits, targets))
    return torch.stack(columns, dim=1)


def _right_padded(rests: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and targets, [rows, longest] each; targets of padding are IGNORED."""
    longest = max(map(len, rests))
    ids = [[*rest, *[0] * (longest - len(rest))] for rest in rests]
    targets = [[*rest, *[IGNORED] * (longest - len(rest))] for rest in rests]
    return torch.tensor(ids, device=device), torch.tensor(targets, device=device)


def _chosen(logits: Tensor, targets: Tensor) -> Tensor:
    """[rows] summed log-probabilities of the targets, in float32."""
    losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
    return -losses.sum(1)  # padding has a loss of 0
