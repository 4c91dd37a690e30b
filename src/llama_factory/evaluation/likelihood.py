"""How likely a model finds texts: answers and plain text, options, and general rows of its base."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from llama_factory.core.types import Example, Message
from llama_factory.evaluation.drift import RowDrift
from llama_factory.evaluation.task_rows import TaskRow
from llama_factory.inference.cache import Begun, CachedNetwork, can_cache, shared_tokens
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import EncodedRow, encode
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.padding import IGNORED, by_length, cut, pad
from llama_factory.model.quick.network import QuickNetwork
from llama_factory.model.wrapping import without_adapter

MAX_DRIFT_TOKENS = 512
"""Most tokens at once for drift, as all logits of two models are held."""

OptionRows = Sequence[EncodedRow]
"""One prompt with each of its options."""
Ids = tuple[int, ...]
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class Likelihood:
    """Negative log-likelihood of one row.

    Attributes:
        nats: summed over its tokens.
        tokens: how many they are; 0 where the row does not fit the model.
    """

    nats: float
    tokens: int


@torch.no_grad()
def row_likelihoods(
    model: AdaptedModel, rows: Sequence[Example], *, batch_tokens: int
) -> list[Likelihood]:
    """The likelihood of each row's answers (of all of it, for plain text), in order.

    Args:
        model: with its adapter on.
        rows: any rows; those that do not fit the model's template or length have 0 tokens.
        batch_tokens: most tokens that go through the model at once.
    """
    kernel = TokenLogProbs(model.network)
    is_wanted = model.device.type == "cpu" and not model.precision.is_mixed
    quick = QuickNetwork(model.network, is_wanted=is_wanted, shares=True)

    def measure(codes: Sequence[EncodedRow]) -> list[Likelihood]:
        ids, targets = pad(codes)
        log_probs = kernel(ids.to(model.device), targets.to(model.device)).double().cpu()
        counts = (targets != IGNORED).sum(1).tolist()
        parts = torch.split(log_probs, counts)
        return [Likelihood(-float(p.sum()), n) for p, n in zip(parts, counts, strict=True)]

    with quick.on():
        return _row_by_row(model, rows, batch_tokens, measure, Likelihood(0.0, 0))


def perplexity(model: AdaptedModel, rows: Sequence[Example], *, batch_tokens: int) -> float:
    """exp of the mean negative log-likelihood of all answer tokens; NaN without rows."""
    likelihoods = row_likelihoods(model, rows, batch_tokens=batch_tokens)
    count = sum(each.tokens for each in likelihoods)
    return math.exp(sum(each.nats for each in likelihoods) / count) if count else math.nan


@torch.no_grad()
def drift_from_base(
    model: AdaptedModel, rows: Sequence[Example], *, batch_tokens: int, base: Any = None
) -> list[RowDrift]:
    """Likelihoods of each row under a model and its base, and the divergence between the two.

    Args:
        model: with its adapter on.
        rows: general rows, always the same.
        batch_tokens: most tokens that go through the model at once.
        base: network of the base model. None: the same network with its adapter switched off;
            where the model's own weights were trained, the base is unknown then.
    """

    def measure(codes: Sequence[EncodedRow]) -> list[RowDrift]:
        return _drifts(model, base, codes)

    most = min(batch_tokens, MAX_DRIFT_TOKENS)
    return _row_by_row(model, rows, most, measure, RowDrift(0.0, 0, 0.0, 0.0))


def _row_by_row(
    model: AdaptedModel,
    rows: Sequence[Example],
    batch_tokens: int,
    measure: Callable[[Sequence[EncodedRow]], list[Measured]],
    unfit: Measured,
) -> list[Measured]:
    """A value a row, in order: measured in batches of similar length, `unfit` for other rows."""
    options = replace(model.options, train_on_prompt=False)
    codes = {i: encode(row, model.tokenizer, options) for i, row in enumerate(rows)}
    fitting = [(i, code) for i, code in codes.items() if isinstance(code, EncodedRow)]
    values = [unfit] * len(rows)
    for batch in by_length([code for _, code in fitting], batch_tokens):
        measured = measure([fitting[n][1] for n in batch])
        for n, each in zip(batch, measured, strict=True):
            values[fitting[n][0]] = each
    return values


def _drifts(model: AdaptedModel, other: Any, codes: Sequence[EncodedRow]) -> list[RowDrift]:
    ids, targets = (each.to(model.device) for each in pad(codes))
    counts = (targets != IGNORED).sum(1).tolist()
    own = _log_probs(model.network, ids, targets)
    if other is None:
        base = _base_log_probs(model.network, ids, targets)
    else:
        base = _log_probs(other, ids, targets)
    chosen = targets[targets != IGNORED][:, None]
    nats = -own.gather(1, chosen).squeeze(1)
    if base is None:
        return [RowDrift(float(n.sum()), len(n), None, None) for n in torch.split(nats, counts)]
    base_nats = -base.gather(1, chosen).squeeze(1)
    divergence = (own.exp() * (own - base)).sum(1)
    columns = (torch.split(each.double(), counts) for each in (nats, base_nats, divergence))
    return [
        RowDrift(float(n.sum()), len(n), float(b.sum()), float(d.sum()))
        for n, b, d in zip(*columns, strict=True)
    ]


def _log_probs(network: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """[answer tokens, vocabulary] in float32."""
    logits = network(input_ids=ids, use_cache=False).logits
    logits = logits[:, -targets.shape[1] :]  # a trained prompt comes before the row's own tokens
    chosen: Tensor = logits[targets != IGNORED].float().log_softmax(-1)
    return chosen


def _base_log_probs(network: Any, ids: Tensor, targets: Tensor) -> Tensor | None:
    """The same with the adapter off; None where there is no adapter to switch off."""
    if not hasattr(network, "disable_adapter"):
        return None
    with without_adapter(network):
        return _log_probs(network, ids, targets)


@torch.no_grad()
def option_likelihoods(
    model: AdaptedModel, rows: Sequence[TaskRow], *, batch_tokens: int
) -> list[list[float]]:
    """For each option the summed log-probability of its tokens and the end token, in nats.

    Every prompt is read once for all its options. Tokens that all options of a row begin with are
    left out of their sums: only differences between the options of one row mean something.

    Args:
        model: in eval mode.
        rows: with their options.
        batch_tokens: most prompt tokens that go through the model at once.

    Returns:
        One list a row; empty where the row does not fit the model's template or length.
    """
    encoded = [_encoded(model, row) for row in rows]
    shared = {number: _num_shared(codes) for number, codes in enumerate(encoded) if codes}
    if not can_cache(model.network) or not all(shared.values()):
        return [_each_alone(model, row, batch_tokens) for row in rows]
    network = CachedNetwork(model.network)
    begun = {number: encoded[number][0].ids[:num] for number, num in shared.items()}
    prefix = network.read_shared(list(begun.values()))
    order = sorted(shared, key=shared.__getitem__)
    lengths = [shared[number] for number in order]
    sums: list[list[float]] = [[] for _ in rows]
    for start, end in cut(lengths, max_tokens=batch_tokens, max_rows=len(order)):
        numbers = order[start:end]
        read = network.read([begun[i] for i in numbers], prefix)
        table = _sums(network, read, [_rests(encoded[i], shared[i]) for i in numbers])
        for i, values in zip(numbers, table.tolist(), strict=True):
            sums[i] = values[: len(encoded[i])]
    return sums


def _with_options(row: TaskRow) -> list[Example]:
    turns = row.example.prompt
    answers = [Message("assistant", option) for option in row.options]
    return [replace(row.example, messages=(*turns, answer)) for answer in answers]


def _encoded(model: AdaptedModel, row: TaskRow) -> list[EncodedRow]:
    """The row with each option as its answer; empty where one of them does not fit whole."""
    options = replace(model.options, train_on_prompt=False, mask_history=True)
    codes = [encode(each, model.tokenizer, options) for each in _with_options(row)]
    whole = [code for code in codes if isinstance(code, EncodedRow) and not code.lost_tokens]
    return whole if len(whole) == len(codes) else []


def _each_alone(model: AdaptedModel, row: TaskRow, batch_tokens: int) -> list[float]:
    """The same with the prompt read for every option, for networks whose cache cannot be cut."""
    likelihoods = row_likelihoods(model, _with_options(row), batch_tokens=batch_tokens)
    return [-each.nats for each in likelihoods] if all(e.tokens for e in likelihoods) else []


def _num_shared(options: OptionRows) -> int:
    """Tokens that all options begin with; each keeps at least one of its own."""
    most = min(len(code.ids) for code in options) - 1
    return shared_tokens([code.ids for code in options], most)


def _rests(options: OptionRows, num_shared: int) -> list[Ids]:
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
