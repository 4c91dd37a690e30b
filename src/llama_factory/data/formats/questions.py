"""Rows that are asked and not taught: their answer may be missing."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data.formats import Content, Layout, find_layout, parse_row
from llama_factory.data.formats.conversation import turns_in, wording_for
from llama_factory.data.formats.turns import ASSISTANT, Wording, wording_in
from llama_factory.data.formats.values import is_missing

OPEN = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the missing answer while its row is read."""
ANSWER_NAME = "output"
"""What an answer may be called beside any question."""


def parse_question(row: Mapping[str, Any], layout: Layout | None = None) -> Content:
    """What a row asks, and the answer that it expects: an empty one where it has none.

    Args:
        row: as it was read.
        layout: how it is laid out; None finds that by its fields.

    Raises:
        BadRowError: it is in no known layout, or what it holds is wrong.
    """
    whole = _with_answer(row, layout)
    if whole is None:
        return parse_row(row, layout)
    content = parse_row(whole, layout)
    last = content.messages[-1]
    if (last.role, last.content) != (ASSISTANT, OPEN):
        return parse_row(row, layout)
    return replace(content, messages=(*content.messages[:-1], Message(ASSISTANT, "")))


def _with_answer(row: Mapping[str, Any], layout: Layout | None) -> dict[str, Any] | None:
    """The row with an answer that stands for a missing one; None where it has its own, or none."""
    found = layout or _layout_of(row)
    if found is None or found.ranking:
        return None
    if found.formatting != "alpaca":
        return _with_last_turn(row, found)
    name = found.columns.response
    if name is None or not _is_blank(row.get(name)):
        return None
    asked = row.get(found.columns.prompt or "")
    listed = asked if isinstance(asked, list) else None
    return {**row, name: OPEN if listed is None else [_turn(wording_in(listed))]}


def _layout_of(row: Mapping[str, Any]) -> Layout | None:
    """The layout of a row as it is, or as it would be with an answer."""
    found = find_layout(tuple(row)) or find_layout((*row, ANSWER_NAME))
    return found[1] if found else None


def _with_last_turn(row: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    listed = turns_in(row, layout)
    wording = wording_for(layout, listed)
    last = listed[-1] if isinstance(listed[-1], dict) else {}
    is_answer = wording.roles.get(str(last.get(wording.role))) == ASSISTANT
    if is_answer and not (_is_blank(last.get(wording.content)) and not last.get("tool_calls")):
        return dict(row)
    asked = listed[:-1] if is_answer else listed
    return {**row, str(layout.columns.messages or "messages"): [*asked, _turn(wording)]}


def _turn(wording: Wording) -> dict[str, str]:
    return {wording.role: wording.name(ASSISTANT), wording.content: OPEN}


def _is_blank(value: Any) -> bool:
    return value.isspace() or not value if isinstance(value, str) else is_missing(value)
