"""What a row becomes for a model: its text in pieces, trained or not. Loads no weights."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Example
from llama_factory.model.chat.encoding import EncodedRow, EncodeOptions, Unfit, encode, encode_pair


@dataclass(frozen=True)
class Piece:
    """Some tokens in a row that are treated alike, as text."""

    text: str
    is_trained: bool
    is_special: bool


@dataclass(frozen=True)
class RowPreview:
    """One row as a model is taught it.

    Attributes:
        file: where it came from.
        line: its place there.
        answer: `chosen` or `rejected` in a preference pair, else empty.
        reason: why it cannot be taught; empty where it can.
        pieces: its tokens as text.
        num_tokens: tokens that go through the model.
        num_trained: tokens that are taught.
        num_characters: of all turns.
        lost_turns: oldest turns left out because the row is too long.
        lost_tokens: tokens left out in all.
    """

    file: str
    line: int
    answer: str = ""
    reason: str = ""
    pieces: tuple[Piece, ...] = ()
    num_tokens: int = 0
    num_trained: int = 0
    num_characters: int = 0
    lost_turns: int = 0
    lost_tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def preview(
    example: Example, tokenizer: PreTrainedTokenizerBase, options: EncodeOptions
) -> list[RowPreview]:
    """What a row becomes: one preview, or two for a preference pair."""
    num_characters = sum(len(turn.content) for turn in example.messages)
    plain = RowPreview(example.file, example.line, num_characters=num_characters)
    try:
        if example.rejected is None:
            codes: tuple[EncodedRow | Unfit, ...] = (encode(example, tokenizer, options),)
        else:
            pair = encode_pair(example, tokenizer, options)
            codes = (pair,) if isinstance(pair, Unfit) else pair
    except ModelError as error:
        place = f"{example.file}:{example.line}: "
        return [replace(plain, reason=str(error).removeprefix(place))]
    names = ("chosen", "rejected") if len(codes) == 2 else ("",)
    return [
        _previewed(replace(plain, answer=name), code, tokenizer)
        for name, code in zip(names, codes, strict=True)
    ]


def _previewed(
    plain: RowPreview, code: EncodedRow | Unfit, tokenizer: PreTrainedTokenizerBase
) -> RowPreview:
    if isinstance(code, Unfit):
        return replace(plain, reason=code.reason)
    return replace(
        plain,
        pieces=tuple(_pieces(code, tokenizer)),
        num_tokens=len(code.ids),
        num_trained=code.num_trained,
        lost_turns=code.lost_turns,
        lost_tokens=code.lost_tokens,
    )


def _pieces(code: EncodedRow, tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
    # Decoded together: one character can be several tokens, which are nothing on their own.
    special = set(tokenizer.all_special_ids)
    tokens = zip(code.ids, code.is_trained, strict=True)
    for (is_trained, is_special), run in groupby(tokens, lambda t: (t[1], t[0] in special)):
        text = tokenizer.decode([token for token, _ in run], clean_up_tokenization_spaces=False)
        yield Piece(str(text), is_trained, is_special)
