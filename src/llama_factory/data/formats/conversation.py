"""Rows that hold a list of turns: ShareGPT's conversations and OpenAI's messages."""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data.formats import Content, Format, register
from llama_factory.data.formats.extras import EXTRA_NAMES, VERDICT, finished
from llama_factory.data.formats.layout import Layout
from llama_factory.data.formats.turns import (
    ASSISTANT,
    SYSTEM,
    Spoken,
    Wording,
    check_order,
    parse_turn,
    parse_turns,
    without_foreign_nulls,
    wording_in,
    wording_of,
)
from llama_factory.data.formats.values import BadRowError, list_of, optional_text

WHAT = "at least one user and one assistant message"


def parse(row: Mapping[str, Any], layout: Layout) -> Content:
    """A system turn, if any, then user and assistant in turn, ending with the assistant."""
    columns = layout.columns
    listed = turns_in(row, layout)
    wording = wording_for(layout, listed)
    listed = without_foreign_nulls(listed, row.get(columns.tools or ""))
    turns = parse_turns(listed, wording)
    check_order(turns, wording, ends_with_answer=not layout.ranking)
    messages = _with_system(turns, optional_text(row, columns.system))
    if not layout.ranking:
        return finished(messages, row, layout)
    better, worse = (
        _answer(row, each, wording)
        for each in (columns.chosen or "chosen", columns.rejected or "rejected")
    )
    return finished((*messages, better), row, layout, rejected=worse)


def turns_in(row: Mapping[str, Any], layout: Layout) -> list[Any]:
    """The turns of a row, as they are.

    Raises:
        BadRowError: it has none.
    """
    name = layout.columns.messages or "messages"
    if name not in row:
        raise BadRowError(f"'{name}' is missing; the row has {', '.join(map(str, row))}.")
    listed = list_of(row, name, WHAT)
    if not listed:
        raise BadRowError(f"'{name}' must be a list of {WHAT}.")
    return listed


def wording_for(layout: Layout, listed: list[Any]) -> Wording:
    """How the turns of a row are written: as its layout says, else as the first turn shows."""
    if layout.tags is None:
        return wording_in(listed)
    return wording_of(layout.tags, is_openai=layout.formatting == "openai")


def _with_system(turns: list[Spoken], system: str) -> tuple[Message, ...]:
    """A leading system turn overrides the row's system column."""
    messages = tuple(turn.message for turn in turns)
    if not system or messages[0].role == SYSTEM:
        return messages
    return (Message(SYSTEM, system), *messages)


def _answer(row: Mapping[str, Any], name: str, wording: Wording) -> Message:
    value = row.get(name)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):
        value = {wording.role: wording.name(ASSISTANT), wording.content: value}
    try:
        message = parse_turn(value, wording).message
    except BadRowError as error:
        raise BadRowError(f"'{name}': {error}") from None
    if message.role != ASSISTANT:
        raise BadRowError(
            f"'{name}' must be an answer of the assistant, it is from '{message.role}'."
        )
    return message


CONVERSATION = ("conversations", "conversation")
MESSAGES = ("messages",)
TALK_NAMES = {"system": ("system",), **EXTRA_NAMES, **VERDICT}
PAIR = {"chosen": ("chosen",), "rejected": ("rejected",)}

for _rank, _formatting, _names in ((30, "openai", MESSAGES), (40, "sharegpt", CONVERSATION)):
    register(
        Format(
            name=_formatting,
            rank=_rank,
            names={"messages": _names, **TALK_NAMES},
            required=("messages",),
            layout=Layout("sharegpt", tags=None),
            parse=parse,
        )
    )
    register(
        Format(
            name=f"{_formatting} pairs",
            rank=_rank - 10,
            names={"messages": _names, **PAIR, **TALK_NAMES},
            required=("messages", "chosen", "rejected"),
            layout=Layout("sharegpt", ranking=True, tags=None),
            parse=parse,
        )
    )
