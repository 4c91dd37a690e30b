"""Rows whose prompt fills all the room: what of prompt and answer stays, where they are cut."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from llama_factory.model.chat.masks import Conversation
from llama_factory.model.chat.template import prompt_tokens

PLAIN = "."
"""Stands for the last question, to see what the template writes after it."""


def room(prompt: int, answer: int, most: int) -> tuple[int, int]:
    """How many tokens of a prompt and of its answer stay, together at most `most`.

    The part that is less than half of them stays whole; where neither is, both lose the same share.
    """
    if 2 * answer < most:
        kept = answer
    elif 2 * prompt < most:
        kept = most - prompt
    else:
        kept = most * answer // (prompt + answer)
    kept = min(kept, answer)
    return min(most - kept, prompt), kept


def shared(spans: Sequence[Sequence[int]], most: int, *, is_apart: bool) -> Iterator[list[int]]:
    """The places of what stays of answers to one prompt, and of the prompt before each.

    Args:
        spans: places of the tokens of each answer.
        most: tokens of a prompt and an answer together.
        is_apart: whether each answer is cut by its own length, and not by the longest one's.
    """
    lengths = [span[-1] + 1 - span[0] for span in spans]
    for span, own in zip(spans, lengths, strict=True):
        prompt, answer = room(span[0], own if is_apart else max(lengths), most)
        yield [*range(prompt), *range(span[0], min(span[-1] + 1, span[0] + answer))]


def num_after_question(talk: Conversation) -> int:
    """Tokens that end a prompt whatever was asked: the marks after the question."""
    prompt = talk.messages[:-1]
    other = (*prompt[:-1], replace(prompt[-1], content=PLAIN))
    texts = [prompt_tokens(turns, talk.renderer).ids for turns in (prompt, other)]
    shared = 0
    for one, two in zip(*map(reversed, texts), strict=False):
        if one != two:
            break
        shared += 1
    return shared


def shortened(
    talk: Conversation, ids: list[int], factors: list[float], most: int, longest: int
) -> tuple[list[int], list[float]]:
    """A row with the end of its question cut out, and of its answer where it must be.

    Args:
        talk: the row's turns.
        ids: its tokens.
        factors: on the loss of each, 0 up to where the answer begins.
        most: tokens that a row may have.
        longest: tokens of the longest row with this prompt.

    Returns:
        The same two of what stays; unchanged where no token of the question would.
    """
    start = next(place for place, factor in enumerate(factors) if factor)
    after = num_after_question(talk)
    prompt, answer = room(start, longest - start, most)
    if prompt <= after or not answer:
        return ids, factors
    kept = [*range(prompt - after), *range(start - after, min(len(ids), start + answer))]
    return [ids[place] for place in kept], [factors[place] for place in kept]
