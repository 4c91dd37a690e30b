"""Rows that we wrote ourselves (`Example.to_json`): read back exactly."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llama_factory.core.types import TEXT
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats import Content, Format, register_format
from llama_factory.data.formats.layout import OPENAI, Columns, Layout
from llama_factory.data.formats.row_values import BadRowError, checked, flag_of, list_of, text_of
from llama_factory.data.formats.turn_lists import parse_turn_list
from llama_factory.data.formats.turn_parsing import TURN_LIST, parse_turn, plain_text

TURNS = Layout("openai", columns=Columns.only(messages="messages", tools="tools"), tags=None)


def parse_own(row: Mapping[str, Any], layout: Layout) -> Content:
    """Messages, as in other rows, and the fields of an Example beside them."""
    content = _turns(row)
    line = row["line"]
    if isinstance(line, bool) or not isinstance(line, int):
        raise BadRowError(texts.NOT_LINE())
    rejected = row.get("rejected")
    images = list_of(row, "images", texts.PATHS()) if row.get("images") else []
    return replace(
        content,
        rejected=parse_turn(rejected, OPENAI).message if rejected else None,
        is_desirable=flag_of(row, "is_desirable"),
        images=tuple(text_of({"images": image}, "images") for image in images),
        group=_verbatim(row, "group"),
        file=text_of(row, "file", required=False),
        line=line,
        augmented_by=_verbatim(row, "augmented_by"),
    )


def _verbatim(row: Mapping[str, Any], name: str) -> str:
    """A text as we wrote it: a task may be called "NULL". Empty where it is no text."""
    return checked(row[name], name) if isinstance(row.get(name), str) else ""


def _turns(row: Mapping[str, Any]) -> Content:
    listed = list_of(row, "messages", TURN_LIST)
    if len(listed) == 1 and isinstance(listed[0], dict) and listed[0].get("role") == TEXT:
        return Content(plain_text(text_of(listed[0], "content")))
    return parse_turn_list(row, TURNS)


register_format(
    Format(
        name="own",
        rank=0,
        names={name: (name,) for name in ("messages", "group", "file", "line")},
        required=("messages", "group", "file", "line"),
        layout=TURNS,
        parse=parse_own,
        is_ours=True,
    )
)
