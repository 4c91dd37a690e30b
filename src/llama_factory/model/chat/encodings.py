"""What one row stands for in training: an answer, two answers to compare, or parts of a text."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from llama_factory.core.types import Example
from llama_factory.model.chat.masks import (
    EncodedRow,
    EncodeOptions,
    Unfit,
    encode,
    encode_pair,
    text_ids,
)

Sequences = tuple[EncodedRow, ...]
"""What a row stands for, one or several token sequences that never see each other."""
Encoder = Callable[[Example, PreTrainedTokenizerBase, EncodeOptions], Sequences | Unfit]


def encode_answers(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> Sequences | Unfit:
    """One sequence, of which the answers are trained."""
    code = encode(example, tokenizer, options)
    return code if isinstance(code, Unfit) else (code,)


def encode_document(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> Sequences | Unfit:
    """A text in parts of at most `max_tokens`, all of it trained; a conversation in one part.

    A part begins with the last token of the one before it, so that every token but the first of
    the text is predicted exactly once.
    """
    if not example.is_text:
        return encode_answers(example, tokenizer, replace(options, train_on_prompt=True))
    ids = text_ids(example, tokenizer, options)
    if len(ids) < 2:
        return Unfit("the text is empty")
    stride = options.max_tokens - 1
    parts = [tuple(ids[at : at + options.max_tokens]) for at in range(0, len(ids) - 1, stride)]
    return tuple(
        EncodedRow(part, (False, *[True] * (len(part) - 1)), example.weight) for part in parts
    )


ENCODERS: Mapping[str, Encoder] = {
    "answers": encode_answers,
    "pairs": encode_pair,
    "documents": encode_document,
}
