"""Alpaca rows: instruction, input, output; optionally system and history."""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data.formats import BadRowError, Format, register, text_of


def parse(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The prompt is the instruction, then the input on a line of its own (LLaMA-Factory's rule)."""
    system = text_of(row, "system", required=False)
    turns = [Message("system", system)] if system else []
    for pair in row.get("history") or []:
        turns += _past_turn(pair)
    question = text_of(row, "instruction")
    extra = text_of(row, "input", required=False)
    turns.append(Message("user", f"{question}\n{extra}" if extra else question))
    turns.append(Message("assistant", text_of(row, "output")))
    return tuple(turns)


def _past_turn(pair: Any) -> list[Message]:
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)):
        raise BadRowError("'history' must be a list of [question, answer] pairs of text.")
    return [Message("user", pair[0]), Message("assistant", pair[1])]


register(
    Format(
        name="alpaca",
        fields=("instruction", "input", "output", "system", "history"),
        required=("instruction", "output"),
        parse=parse,
    )
)
