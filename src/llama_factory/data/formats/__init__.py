"""Formats of rows, one file each: how a JSON object becomes what it teaches."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.core.settings import import_parts
from llama_factory.core.types import Message
from llama_factory.data import row_sentences as texts
from llama_factory.data.formats.content import Content
from llama_factory.data.formats.layout import (
    ASSISTANT,
    Columns,
    Layout,
    Tags,
    infer_style,
    style_for,
)
from llama_factory.data.formats.row_values import BadRowError, is_missing, names_in, type_name
from llama_factory.data.formats.turn_parsing import has_turn_fields, turns_in

__all__ = [
    "BadRowError",
    "Columns",
    "Content",
    "Format",
    "Layout",
    "Tags",
    "as_object",
    "find_layout",
    "formats",
    "is_turn",
    "parse_question",
    "parse_row",
    "register_format",
]


@dataclass(frozen=True)
class Format:
    """One format of rows.

    Attributes:
        name: as people call it.
        rank: formats are tried from the lowest to the highest.
        names: names of each column in small letters, the usual one first.
        required: a row with all of these columns is in this format.
        layout: the layout of such rows, without their columns.
        parse: row and layout -> what it teaches; raises BadRowError.
        is_ours: whether only this program writes such rows; field names must then match exactly.
    """

    name: str
    rank: int
    names: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...]
    layout: Layout
    parse: Callable[[Mapping[str, Any], Layout], Content]
    is_ours: bool = False

    def match(self, fields: Mapping[str, str]) -> Layout | None:
        """The layout of rows with these fields, if they are in this format.

        Args:
            fields: names as the rows spell them, by the same names in small letters.
        """
        columns = {}
        for column, names in {**self.names, **SHARED_NAMES}.items():
            field = next((fields[name] for name in names if name in fields), None)
            if field is not None:
                columns[column] = field
        if not all(column in columns for column in self.required):
            return None
        if self.is_ours and any(name != fields[name] for name in self.required):
            return None
        return replace(self.layout, columns=Columns.only(**columns), is_inferred=True)


SHARED_NAMES = {"group": ("group",), "weight": ("weight",)}
"""Columns of any format: a row's task, and its weight in the loss."""
NO_ANSWER = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands for the missing answer while its row is read."""
ANSWER_NAME = "output"
"""What an answer may be called beside any question."""

formats: dict[str, Format] = {}


def register_format(part: Format) -> Format:
    """Make a format known to `parse_row`."""
    formats[part.name] = part
    return part


def as_object(row: Any, layout: Layout | None = None) -> dict[str, Any]:
    """A row as an object; a list of turns is a conversation.

    Raises:
        BadRowError: it is neither.
    """
    name = layout.columns.messages if layout else "messages"
    if name and isinstance(row, list) and row and isinstance(row[0], dict) and is_turn(row[0]):
        return {name: row}
    if not isinstance(row, dict):
        raise BadRowError(texts.NOT_OBJECT(what=type_name(row)))
    return row


def parse_row(row: Mapping[str, Any], layout: Layout | None = None) -> Content:
    """What a row teaches.

    Args:
        row: as it was read.
        layout: how it is laid out; None infers that from its fields.

    Raises:
        BadRowError: it is in no known layout, or its values are wrong.
    """
    if layout is not None:
        return formats[layout.formatting].parse(row, layout)
    found = find_layout(tuple(row))
    if is_turn(row):
        raise BadRowError(texts.ONE_TURN())
    if found is None:
        raise BadRowError(_unknown_layout(row))
    return found[0].parse(row, found[1])


def parse_question(row: Mapping[str, Any], layout: Layout | None = None) -> Content:
    """What a row asks, and the answer that it expects: an empty one where it has none.

    Args:
        row: as it was read.
        layout: how it is laid out; None infers that from its fields.

    Raises:
        BadRowError: it is in no known layout, or what it holds is wrong.
    """
    whole = _with_answer(row, layout)
    if whole is None:
        return parse_row(row, layout)
    content = parse_row(whole, layout)
    last = content.messages[-1]
    if (last.role, last.content) != (ASSISTANT, NO_ANSWER):
        return parse_row(row, layout)
    return replace(content, messages=(*content.messages[:-1], Message(ASSISTANT, "")))


def _with_answer(row: Mapping[str, Any], layout: Layout | None) -> dict[str, Any] | None:
    """The row with a placeholder for its missing answer; None where it has one, or takes none."""
    found = layout or _layout_of(row)
    if found is None or found.ranking:
        return None
    if found.formatting != "alpaca":
        return _with_last_turn(row, found)
    name = found.columns.response
    if name is None or not _is_blank(row.get(name)):
        return None
    asked = row.get(found.columns.prompt or "")
    if isinstance(asked, list):
        return {**row, name: [infer_style(asked).turn(ASSISTANT, NO_ANSWER)]}
    return {**row, name: NO_ANSWER}


def _layout_of(row: Mapping[str, Any]) -> Layout | None:
    """The layout of a row as it is, or as it would be with an answer."""
    found = find_layout(tuple(row)) or find_layout((*row, ANSWER_NAME))
    return found[1] if found else None


def _with_last_turn(row: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    listed = turns_in(row, layout)
    style = style_for(layout, listed)
    last = listed[-1] if isinstance(listed[-1], dict) else {}
    is_answer = style.roles.get(str(last.get(style.role_field))) == ASSISTANT
    if is_answer and not (_is_blank(last.get(style.content_field)) and not last.get("tool_calls")):
        return dict(row)
    asked = listed[:-1] if is_answer else listed
    name = layout.columns.messages or "messages"
    return {**row, name: [*asked, style.turn(ASSISTANT, NO_ANSWER)]}


def _is_blank(value: Any) -> bool:
    return value.isspace() or not value if isinstance(value, str) else is_missing(value)


def is_turn(row: Mapping[str, Any]) -> bool:
    """Whether an object is a turn of a conversation, and in no layout but that of plain text."""
    if not has_turn_fields(row):
        return False
    found = find_layout(tuple(row))
    return found is None or found[0].name == "text"


@lru_cache(maxsize=1024)
def find_layout(fields: tuple[str, ...]) -> tuple[Format, Layout] | None:
    """The format and layout of rows with these fields, in whatever case they are written."""
    small = [name.strip().lower() for name in fields]
    times = Counter(small)
    names = {each: name for each, name in zip(small, fields, strict=True) if times[each] == 1}
    names |= {name: name for name in fields if name in times}
    for each in sorted(formats.values(), key=lambda each: each.rank):
        layout = each.match(names)
        if layout is not None:
            return each, layout
    return None


def _unknown_layout(row: Mapping[str, Any]) -> str:
    known = {name for each in formats.values() for names in each.names.values() for name in names}
    hints = [suggest(name, known) for name in row if name not in known]
    hint = next((hint for hint in hints if hint), "")
    wanted = " or ".join(
        dict.fromkeys(
            "+".join(each.names[column][0] for column in each.required)
            for each in sorted(formats.values(), key=lambda each: each.rank)
            if each.rank
        )
    )
    return texts.UNKNOWN_LAYOUT(fields=names_in(row), wanted=wanted, hint=hint)


import_parts(__name__, __path__)
