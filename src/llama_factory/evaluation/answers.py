"""What a model does with rows: how likely it finds the expected answers, and what it answers."""

import logging
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama_factory.core.progress import Bar
from llama_factory.core.types import Example
from llama_factory.evaluation.likelihood import row_likelihoods
from llama_factory.inference.cache import can_cache, context_tokens
from llama_factory.inference.decoding import Decoded, Decoder, Limits, decode_by_generate
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import Unfit, prompt_ids

ROWS_AT_ONCE = 64
"""Most answers generated together."""
CACHED = 8
"""Tokens whose keys and values are held, over the prompt tokens of one pass."""

EMPTY_THOUGHT = re.compile(r"\s*<(think|\w+:think|thinking)>\s*</\1>")
OPENED = re.compile(r"<(think|\w+:think|thinking)>\s*\Z")
OPENING_TOKENS = 12
"""Tokens of a prompt that its end is looked at in."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What a model answered.

    Attributes:
        text: without special tokens and outer white space.
        num_tokens: tokens generated, the end token among them.
        is_cut: whether the limit came before the end token.
    """

    text: str
    num_tokens: int
    is_cut: bool


def perplexity(model: AdaptedModel, rows: Sequence[Example], *, batch_tokens: int) -> float:
    """exp of the mean negative log-likelihood of all answer tokens; NaN without rows."""
    found = row_likelihoods(model, rows, batch_tokens=batch_tokens)
    count = sum(each.tokens for each in found)
    return math.exp(sum(each.nats for each in found) / count) if count else math.nan


def answers(
    model: AdaptedModel, rows: Sequence[Example], *, max_new_tokens: int, bar: Bar
) -> list[Answer]:
    """The greedy answer to each row's prompt, in the order of the rows.

    A prompt that the chat template refuses is answered with nothing.
    """
    given: dict[int, Answer] = {}
    for number, answer in answer_rows(model, rows, max_new_tokens=max_new_tokens):
        given[number] = answer
        bar.advance()
    return [given[number] for number in range(len(rows))]


def answer_rows(
    model: AdaptedModel,
    rows: Sequence[Example],
    *,
    max_new_tokens: int,
    batch_tokens: int = 2048,
) -> Iterator[tuple[int, Answer]]:
    """The number of each row and its greedy answer, as soon as the answer has ended.

    Greedy is the likeliest token every time: penalties that a model's own settings ask for are left
    out. A prompt that the chat template refuses, or that fills all the model can read, is answered
    with nothing.

    Args:
        model: in eval mode.
        rows: those with similar lengths are answered together.
        max_new_tokens: longest answer.
        batch_tokens: most prompt tokens that go through the model at once; keys and values are held
            of eight times as many.
    """
    prompts = _prompts(model, rows)
    for refused in set(range(len(rows))).difference(prompts):
        yield refused, Answer("", 0, is_cut=False)
    numbers = list(prompts)
    limits = Limits(max_new_tokens, ROWS_AT_ONCE, batch_tokens, CACHED * batch_tokens)
    for decoded in _decode(model, list(prompts.values()), limits):
        number = numbers[decoded.number]
        text = str(model.tokenizer.decode(decoded.ids, skip_special_tokens=True)).strip()
        if not EMPTY_THOUGHT.match(rows[number].answer):
            end = prompts[number][-OPENING_TOKENS:]
            text = without_empty_thought(text, asked=str(model.tokenizer.decode(end)))
        yield number, Answer(text, len(decoded.ids), decoded.is_cut)


def without_empty_thought(text: str, *, asked: str) -> str:
    """An answer without the empty thought that reasoning templates have a model begin with.

    Args:
        text: what the model said.
        asked: the end of its prompt, in which the thought may begin.
    """
    opened = OPENED.search(asked)
    whole = text if opened is None else f"{opened[0]}{text}"
    found = EMPTY_THOUGHT.match(whole)
    return whole[found.end() :].strip() if found else text


def _prompts(model: AdaptedModel, rows: Sequence[Example]) -> dict[int, list[int]]:
    """The prompts that can be answered, by the number of their row."""
    asked = [prompt_ids(row, model.tokenizer, model.options) for row in rows]
    fitting = {i: ids for i, ids in enumerate(asked) if ids and not isinstance(ids, Unfit)}
    most = context_tokens(model.network)
    short = {i: ids for i, ids in fitting.items() if len(ids) < most}
    if len(short) < len(fitting):
        logger.warning(
            "%d of %d prompts fill all %d tokens that the model can read: their answers are empty.",
            len(fitting) - len(short),
            len(rows),
            most,
        )
    return short


def _decode(
    model: AdaptedModel, prompts: Sequence[Sequence[int]], limits: Limits
) -> Iterator[Decoded]:
    ends = end_tokens(model)
    if can_cache(model.network):
        return Decoder(model.network, ends, limits).run(prompts)
    return decode_by_generate(model.network, ends, limits, prompts)


def end_tokens(model: AdaptedModel) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's, and all that the model declares."""
    declared = model.network.generation_config.eos_token_id
    listed = declared if isinstance(declared, list) else [declared]
    own = [model.tokenizer.eos_token_id, model.options.format.end_id(model.tokenizer)]
    return frozenset(int(i) for i in [*own, *listed] if i is not None)
