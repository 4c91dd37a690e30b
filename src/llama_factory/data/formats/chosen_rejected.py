"""Pairs of a better and a worse answer to a question, or to turns that both answers repeat."""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats import Content, Format, register_format
from llama_factory.data.formats.alpaca import ROW_NAMES, parse_alpaca
from llama_factory.data.formats.content import PAIR_NAMES, content_of
from llama_factory.data.formats.layout import Layout, infer_style
from llama_factory.data.formats.row_values import BadRowError, list_of
from llama_factory.data.formats.turn_parsing import check_order, parse_turns

CHOSEN, REJECTED = "chosen", "rejected"


def parse_chosen_rejected(row: Mapping[str, Any], layout: Layout) -> Content:
    """Answers as text beside the question, or as lists of turns (TRL's conversations)."""
    columns = layout.columns
    chosen, rejected = columns.chosen or CHOSEN, columns.rejected or REJECTED
    if not isinstance(row[chosen], list) and columns.prompt:
        return parse_alpaca(row, layout)
    better, worse = (_talk(row, name, columns.prompt) for name in (chosen, rejected))
    place = next((i for i, (a, b) in enumerate(zip(better, worse, strict=False)) if a != b), None)
    if place is not None and (place != len(better) - 1 or len(better) != len(worse)):
        raise BadRowError(texts.OTHER_QUESTION(number=place + 1))
    return content_of(better, row, layout, rejected=worse[-1])


def _talk(row: Mapping[str, Any], name: str, prompt: str | None) -> tuple[Message, ...]:
    """The question and one of its answers."""
    listed = list_of(row, name, texts.TURNS_AND_PROMPT())
    if len(listed) == 1 and prompt:
        before = row[prompt]
        listed = [*(before if isinstance(before, list) else [_asked(before, listed[0])]), *listed]
    style = infer_style(listed)
    turns = parse_turns(listed, style)
    try:
        check_order(turns, style, ends_with_answer=True)
    except BadRowError as error:
        raise BadRowError(texts.IN_FIELD(name=name, why=error)) from None
    return tuple(turn.message for turn in turns)


def _asked(question: Any, answer: Any) -> dict[str, Any]:
    """A question as a turn, in the style of its answer."""
    style = infer_style([answer])
    return {style.role_field: "user", style.content_field: question}


register_format(
    Format(
        name="preference",
        rank=10,
        names={
            "prompt": ("instruction", "prompt", "question"),
            "query": ("input",),
            **PAIR_NAMES,
            **ROW_NAMES,
        },
        required=("prompt", CHOSEN, REJECTED),
        layout=Layout("alpaca", ranking=True),
        parse=parse_chosen_rejected,
    )
)
register_format(
    Format(
        name="preference without a prompt",
        rank=45,
        names={**PAIR_NAMES, "tools": ("tools",)},
        required=(CHOSEN, REJECTED),
        layout=Layout("alpaca", ranking=True),
        parse=parse_chosen_rejected,
    )
)
