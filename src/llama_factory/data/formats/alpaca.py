"""Alpaca rows: instruction, input, output; optionally system and history, or two answers."""

from collections.abc import Mapping
from typing import Any

from llama_factory.core.types import Message
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats import Content, Format, register_format
from llama_factory.data.formats.content import EXTRA_NAMES, content_of
from llama_factory.data.formats.layout import Columns, Layout
from llama_factory.data.formats.row_values import (
    BadRowError,
    is_missing,
    list_of,
    optional_text,
    text_of,
)
from llama_factory.data.formats.turn_parsing import plain_text


def parse_alpaca(row: Mapping[str, Any], layout: Layout) -> Content:
    """The prompt is the instruction, then the input on a line of its own (LLaMA-Factory's rule)."""
    columns = layout.columns
    question = _question(row, columns)
    if columns.response is None and not layout.ranking:
        return content_of(plain_text(question), row, layout)
    turns = [*_system(row, columns), *_history(row, columns), Message("user", question)]
    if layout.ranking:
        better = Message("assistant", text_of(row, columns.chosen or "chosen"))
        worse = Message("assistant", text_of(row, columns.rejected or "rejected"))
        return content_of((*turns, better), row, layout, rejected=worse)
    answer = Message("assistant", text_of(row, columns.response or "output"))
    return content_of((*turns, answer), row, layout)


def _question(row: Mapping[str, Any], columns: Columns) -> str:
    name = columns.prompt or columns.query or "instruction"
    if name not in row:
        text_of(row, name)
    first = text_of(row, columns.prompt, required=False) if columns.prompt else ""
    parts = (first, optional_text(row, columns.query))
    question = "\n".join(part for part in parts if part)
    if not question or question.isspace():
        raise BadRowError(texts.EMPTY(name=name))
    return question


def _system(row: Mapping[str, Any], columns: Columns) -> list[Message]:
    system = optional_text(row, columns.system)
    return [Message("system", system)] if system else []


def _history(row: Mapping[str, Any], columns: Columns) -> list[Message]:
    name = columns.history
    if name is None or is_missing(row.get(name)):
        return []
    turns = []
    for number, pair in enumerate(list_of(row, name, texts.PAIRS()), 1):
        if not (
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
        ):
            raise BadRowError(texts.NOT_PAIR(name=name, number=number))
        question, answer = ({"": text} for text in pair)
        turns += [Message("user", text_of(question, "")), Message("assistant", text_of(answer, ""))]
    return turns


ANSWER_NAMES = {"prompt": ("instruction",), "query": ("input",), "response": ("output", "response")}
ROW_NAMES = {"history": ("history",), "system": ("system", "system_prompt"), **EXTRA_NAMES}

register_format(
    Format(
        name="alpaca",
        rank=50,
        names=ANSWER_NAMES | ROW_NAMES,
        required=("prompt", "response"),
        layout=Layout("alpaca"),
        parse=parse_alpaca,
    )
)
