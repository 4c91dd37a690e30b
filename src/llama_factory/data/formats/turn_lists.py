"""Rows that hold a list of turns: ShareGPT's conversations and OpenAI's messages."""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats import Content, Format, register_format
from llama_factory.data.formats.content import EXTRA_NAMES, PAIR_NAMES, VERDICT_NAMES, content_of
from llama_factory.data.formats.layout import ASSISTANT, SYSTEM, Layout, TurnStyle, style_for
from llama_factory.data.formats.row_values import BadRowError, optional_text
from llama_factory.data.formats.turn_parsing import (
    ParsedTurn,
    check_order,
    parse_turn,
    parse_turns,
    turns_in,
    without_foreign_nulls,
)


def parse_turn_list(row: Mapping[str, Any], layout: Layout) -> Content:
    """A system turn, if any, then user and assistant in turn, ending with the assistant."""
    columns = layout.columns
    listed = turns_in(row, layout)
    style = style_for(layout, listed)
    listed = without_foreign_nulls(listed, row.get(columns.tools or ""))
    turns = parse_turns(listed, style)
    check_order(turns, style, ends_with_answer=not layout.ranking)
    messages = _with_system(turns, optional_text(row, columns.system))
    if not layout.ranking:
        return content_of(messages, row, layout)
    better, worse = (
        _answer(row, each, style)
        for each in (columns.chosen or "chosen", columns.rejected or "rejected")
    )
    return content_of((*messages, better), row, layout, rejected=worse)


def _with_system(turns: list[ParsedTurn], system: str) -> tuple[Message, ...]:
    """A leading system turn overrides the row's system column."""
    messages = tuple(turn.message for turn in turns)
    if not system or messages[0].role == SYSTEM:
        return messages
    return (Message(SYSTEM, system), *messages)


def _answer(row: Mapping[str, Any], name: str, style: TurnStyle) -> Message:
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = style.turn(ASSISTANT, value)
    try:
        message = parse_turn(value, style).message
    except BadRowError as error:
        raise BadRowError(texts.IN_FIELD(name=name, why=error)) from None
    if message.role != ASSISTANT:
        raise BadRowError(texts.NOT_ASSISTANT(name=name, role=message.role))
    return message


TURN_FORMATS = (
    (30, "openai", ("messages",)),
    (40, "sharegpt", ("conversations", "conversation")),
)
"""Rank, format and names of the column that holds the turns."""
CHAT_NAMES = {"system": ("system",), **EXTRA_NAMES, **VERDICT_NAMES}

for _rank, _formatting, _names in TURN_FORMATS:
    register_format(
        Format(
            name=_formatting,
            rank=_rank,
            names={"messages": _names, **CHAT_NAMES},
            required=("messages",),
            layout=Layout("sharegpt", tags=None),
            parse=parse_turn_list,
        )
    )
    register_format(
        Format(
            name=f"{_formatting} pairs",
            rank=_rank - 10,
            names={"messages": _names, **PAIR_NAMES, **CHAT_NAMES},
            required=("messages", "chosen", "rejected"),
            layout=Layout("sharegpt", ranking=True, tags=None),
            parse=parse_turn_list,
        )
    )
