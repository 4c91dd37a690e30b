"""Scores of one model on tasks: each prompt is read once, for all its options and the answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llama_factory.core.types import Example
from llama_factory.evaluation.answering import answer_rows
from llama_factory.evaluation.drift import mean_divergence
from llama_factory.evaluation.likelihood import drift_from_base, row_likelihoods
from llama_factory.evaluation.metrics.token_f1 import TokenF1
from llama_factory.evaluation.task_rows import TaskRow
from llama_factory.inference.cache import Begun, CachedNetwork
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import EncodedRow, encode, prompt_ids
from llama_factory.model.padding import cut

BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}
MOST_ROWS = 64

Scores = dict[str, list[float]]
"""One number a row by metric."""


@dataclass(frozen=True)
class Choice:
    """What a model makes of one row's options.

    Attributes:
        log_probs: of each option and the end token, summed, in nats.
        greedy: number of the option that the greedy answer is, token by token; None if it is none.
    """

    log_probs: tuple[float, ...]
    greedy: int | None


def score_rows(model: AdaptedModel, scored: Sequence[TaskRow], *, max_new_tokens: int) -> Scores:
    """Every row's score; a free answer is scored by what it shares with the expected one.

    Args:
        model: in eval mode.
        scored: rows of one task.
        max_new_tokens: longest free answer.
    """
    if scored[0].options:
        return _score_choices(model, scored)
    rows = [row.example for row in scored]
    answers = dict(answer_rows(model, rows, max_new_tokens=max_new_tokens))
    found = row_likelihoods(model, rows, batch_tokens=_batch_tokens(model))
    f1 = TokenF1()
    return {
        "token_f1": [f1.score(row.answer, answers[i].text) for i, row in enumerate(rows)],
        "answer_probability": [math.exp(-each.nats / each.tokens) for each in found],
        "nats": [each.nats for each in found],
        "tokens": [each.tokens for each in found],
    }


def _score_choices(model: AdaptedModel, rows: Sequence[TaskRow]) -> Scores:
    right = [row.options.index(row.expected) for row in rows]
    choices = choose(model, rows)
    likeliest = [max(range(len(c.log_probs)), key=c.log_probs.__getitem__) for c in choices]
    pairs = list(zip(choices, right, strict=True))
    return {
        "exact_match": [float(choice.greedy == wanted) for choice, wanted in pairs],
        "label_likelihood": [float(a == b) for a, b in zip(likeliest, right, strict=True)],
        "is_option": [float(choice.greedy is not None) for choice in choices],
    }


@torch.no_grad()
def choose(model: AdaptedModel, rows: Sequence[TaskRow]) -> list[Choice]:
    """The likelihood of every option, and whether the greedy answer is one of them.

    The greedy answer is an option where each of its tokens and the end token is the likeliest, so
    that no answer has to be generated.

    Args:
        model: in eval mode.
        rows: of one task, all with the same options.
    """
    network = CachedNetwork(model.network)
    options = _option_ids(model, rows[0])
    prompts = [prompt_ids(row.example, model.tokenizer, model.options) for row in rows]
    asked = [prompt for prompt in prompts if isinstance(prompt, list)]
    assert len(asked) == len(rows), "the template takes every prompt of this benchmark"
    order = sorted(range(len(rows)), key=lambda i: len(asked[i]))
    shared = network.read_shared(asked)
    lengths = [len(asked[i]) for i in order]
    found: dict[int, Choice] = {}
    for start, end in cut(lengths, max_tokens=_batch_tokens(model), max_rows=MOST_ROWS):
        begun = network.read([asked[i] for i in order[start:end]], shared)
        found |= zip(order[start:end], choices_of(network, begun, options), strict=True)
    return [found[i] for i in range(len(rows))]


def _option_ids(model: AdaptedModel, row: TaskRow) -> list[list[int]]:
    """What each option adds to a prompt: its tokens and the end token."""
    found = []
    for option in row.options:
        answer = row.example.messages[-1].from_json({"role": "assistant", "content": option})
        turns = (*row.example.prompt, answer)
        code = encode(_with(row.example, turns), model.tokenizer, model.options)
        assert isinstance(code, EncodedRow), code
        found.append([i for i, is_own in zip(code.ids, code.is_trained, strict=True) if is_own])
    return found


def _with(row: Example, turns: Any) -> Example:
    return Example(turns, row.group, row.file, row.line, tools=row.tools)


def choices_of(
    network: CachedNetwork, begun: Begun, options: Sequence[Sequence[int]]
) -> list[Choice]:
    """What is made of each option's tokens after the prompts that were read."""
    sums, greedy = [], []
    for ids in options:
        logits = _after(network, begun, ids)
        wanted = torch.tensor(ids, device=logits.device)
        own = logits.gather(2, wanted.expand(len(logits), -1)[..., None])[..., 0]
        sums.append((own - logits.logsumexp(-1)).sum(1))
        greedy.append((logits.argmax(-1) == wanted).all(1))
    columns = torch.stack(sums, 1).tolist(), torch.stack(greedy, 1).tolist()
    return [
        Choice(tuple(row), hits.index(True) if any(hits) else None)
        for row, hits in zip(*columns, strict=True)
    ]


def _after(network: CachedNetwork, begun: Begun, ids: Sequence[int]) -> Tensor:
    """[rows, tokens, vocabulary] what is expected at each token; the cache is left as it was."""
    first = begun.logits[:, None].float()
    if len(ids) == 1:
        return first
    fed = torch.tensor(ids[:-1], device=first.device).expand(len(first), -1)
    mask = torch.nn.functional.pad(begun.mask, (0, len(ids) - 1), value=1)
    later = network.logits(fed, mask, begun.cache, last=len(ids) - 1)
    begun.cache.crop(1 - len(ids))
    return torch.cat([first, later.float()], dim=1)


def _batch_tokens(model: AdaptedModel) -> int:
    return BATCH_TOKENS.get(model.device.type, BATCH_TOKENS["cpu"])


def score_guard(
    model: AdaptedModel, guard: Mapping[str, Sequence[Example]], *, is_last: bool
) -> dict[str, Any]:
    """Perplexity of each guard; after the last round the base model's too, and the drift from it.

    Args:
        model: in eval mode.
        guard: general rows by name.
        is_last: whether the base model reads them too, which takes as long again.
    """
    measure = _beside_base if is_last else _alone
    return {name: measure(model, rows) for name, rows in guard.items()}


def _alone(model: AdaptedModel, rows: Sequence[Example]) -> dict[str, Any]:
    found = row_likelihoods(model, rows, batch_tokens=_batch_tokens(model))
    num_tokens = sum(each.tokens for each in found)
    return {"perplexity": math.exp(sum(each.nats for each in found) / num_tokens)}


def _beside_base(model: AdaptedModel, rows: Sequence[Example]) -> dict[str, Any]:
    drift = drift_from_base(model, rows, batch_tokens=_batch_tokens(model))
    num_tokens = sum(each.tokens for each in drift)
    nats, base = (sum(each.nats for each in drift), sum(e.base_nats or 0.0 for e in drift))
    return {
        "perplexity": math.exp(nats / num_tokens),
        "base_perplexity": math.exp(base / num_tokens),
        "divergence": mean_divergence(drift),
    }
