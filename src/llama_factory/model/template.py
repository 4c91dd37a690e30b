"""Messages -> tokens, and which of them are trained. The tokenizer's own chat template decides."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ModelError
from llama_factory.core.types import Example, Message


@dataclass(frozen=True)
class EncodedRow:
    """One row as tokens.

    Attributes:
        ids: token ids of the whole conversation.
        is_trained: for each token, whether the model is taught to produce it.
        weight: factor on the row's loss.
    """

    ids: tuple[int, ...]
    is_trained: tuple[bool, ...]
    weight: float = 1.0

    @property
    def num_trained(self) -> int:
        """How many tokens are trained."""
        return sum(self.is_trained)


@dataclass(frozen=True)
class TooLong:
    """A row whose prompt leaves no room for an answer."""

    num_tokens: int


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, ask: bool
) -> list[int]:
    """Token ids of a conversation; with `ask`, up to where the assistant's answer begins."""
    turns = [{"role": turn.role, "content": turn.content} for turn in messages]
    encoded = tokenizer.apply_chat_template(turns, add_generation_prompt=ask, return_dict=True)
    return list(encoded["input_ids"])


def encode(
    example: Example, tokenizer: PreTrainedTokenizerBase, max_tokens: int
) -> EncodedRow | TooLong:
    """Tokens of a row, with every assistant turn trained up to its end token.

    What is trained follows from the template itself: rendering the turns before an answer must
    give a prefix of rendering them with it. Rows longer than `max_tokens` lose their end.

    Raises:
        ModelError: the template is not such that a prefix of turns is a prefix of tokens.
    """
    ids: list[int] = []
    is_trained: list[bool] = []
    for number, turn in enumerate(example.messages):
        if turn.role != "assistant":
            continue
        before = render(tokenizer, example.messages[:number], ask=True)
        through = render(tokenizer, example.messages[: number + 1], ask=False)
        _require_prefix(ids, before, example)
        _require_prefix(before, through, example)
        is_trained += [False] * (len(before) - len(is_trained))
        is_trained += _up_to_end(through[len(before) :], tokenizer.eos_token_id)
        ids = through
    if not any(is_trained[:max_tokens]):
        return TooLong(len(ids))
    last = max(i for i, trained in enumerate(is_trained[:max_tokens]) if trained) + 1
    return EncodedRow(tuple(ids[:last]), tuple(is_trained[:last]), example.weight)


def _up_to_end(answer: list[int], end: int | None) -> list[bool]:
    """Train the answer and its end token; what the template adds after it (a newline) is not."""
    if end not in answer:
        return [True] * len(answer)
    last = len(answer) - 1 - answer[::-1].index(end)
    return [position <= last for position in range(len(answer))]


def _require_prefix(prefix: list[int], whole: list[int], example: Example) -> None:
    if whole[: len(prefix)] == prefix:
        return
    pairs = zip(prefix, whole, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(prefix), len(whole)))
    raise ModelError(
        f"{example.file}:{example.line}: this model's chat template renders earlier turns "
        f"differently once an answer follows (first at token {place}), so what to train is "
        "unclear. Split the conversation into rows with one answer each, or use another template."
    )
