"""How likely a few answers are under a new version and under its base: what it is known by later.

Servers compare it with what they compute (`serving/proof.py`), so it costs a round one short pass
of each model.
"""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from llama_factory.core.types import Example, Message
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import EncodedRow, Unfit, encode, prompt_ids
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.padding import IGNORED, pad
from llama_factory.model.wrapping import without_adapter
from llama_factory.versions import proof
from llama_factory.versions.proof import ProofRow

NUM_ROWS = 3
LOOKED_AT = 24
"""Rows among which the shortest are taken."""
MAX_PROMPT, MAX_ANSWER = 24, 10
"""Tokens of each: prompts lose their beginnings, answers their ends."""
MIN_ANSWER = 4
"""Shorter answers are taken last."""

FIXED = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many days are there in a week?", "There are seven days in a week."),
    ("一年有几个月？", "一年有十二个月。"),
)
"""For rounds without rows that may be kept."""

Pair = tuple[tuple[int, ...], tuple[int, ...]]


def write_proof(
    model: AdaptedModel, rows: Iterable[Example], folder: Path, *, base: Any = None
) -> None:
    """Write what the answers of a new version are known by.

    Args:
        model: the version, in eval mode.
        rows: of its round, the ones to prefer first; only those that may be kept.
        folder: of the version.
        base: network of the base model; None: the same network with its adapter switched off.
    """
    pairs = choose(model, rows)
    own = mean_nlls(model.network, pairs)
    with without_adapter(model.network) if base is None else nullcontext():
        before = mean_nlls(model.network if base is None else base, pairs)
    measured = zip(pairs, own, before, strict=True)
    proof.write(folder, [ProofRow(*pair, round(n, 6), round(b, 6)) for pair, n, b in measured])


def choose(model: AdaptedModel, rows: Iterable[Example]) -> list[Pair]:
    """The prompts and answers to measure: the shortest of some rows, else fixed texts."""
    looked_at = (_pair(model, row) for row in islice(rows, LOOKED_AT))
    pairs = sorted(filter(None, looked_at), key=_rank)[:NUM_ROWS]
    fixed = [_pair(model, _fixed(*each)) for each in FIXED]
    return [*pairs, *filter(None, fixed), *_plain(model)][:NUM_ROWS]


@torch.no_grad()
def mean_nlls(network: Any, pairs: Sequence[Pair]) -> list[float]:
    """The negative log-likelihood of each answer, as a mean over its tokens, in nats."""
    codes = [
        EncodedRow((*prompt, *answer), (*[False] * len(prompt), *[True] * len(answer)))
        for prompt, answer in pairs
    ]
    ids, targets = pad(codes)
    device = next(network.parameters()).device
    log_probs = TokenLogProbs(network)(ids.to(device), targets.to(device)).double().cpu()
    counts = (targets != IGNORED).sum(1).tolist()
    return [-float(part.mean()) for part in torch.split(log_probs, counts)]


def _pair(model: AdaptedModel, row: Example) -> Pair | None:
    """The last answer of a row and what comes before it; None where the row does not fit."""
    if row.is_text:
        return _halves(model, row.answer)
    options = replace(model.options, train_on_prompt=False, mask_history=True, max_trained=None)
    code = encode(row, model.tokenizer, options)
    prompt = prompt_ids(row, model.tokenizer, options)
    if isinstance(code, Unfit) or isinstance(prompt, Unfit) or code.lost_tokens:
        return None
    answer = code.ids[len(prompt) :]
    if not prompt or not answer or list(code.ids[: len(prompt)]) != prompt:
        return None
    return tuple(prompt[-MAX_PROMPT:]), tuple(answer[:MAX_ANSWER])


def _rank(pair: Pair) -> tuple[bool, int]:
    prompt, answer = pair
    return len(answer) < MIN_ANSWER, len(prompt) + len(answer)


def _fixed(question: str, answer: str) -> Example:
    turns = Message("user", question), Message("assistant", answer)
    return Example(turns, "proof", "proof", 1)


def _plain(model: AdaptedModel) -> list[Pair]:
    """The fixed texts without a chat template, for models that have none."""
    halves = (_halves(model, f"{question} {answer}") for question, answer in FIXED)
    return [pair for pair in halves if pair]


def _halves(model: AdaptedModel, text: str) -> Pair | None:
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"][: MAX_PROMPT + MAX_ANSWER]
    half = len(ids) // 2
    return (tuple(ids[:half]), tuple(ids[half:][:MAX_ANSWER])) if half else None
