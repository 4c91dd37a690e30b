"""Layouts of a row, one file each: how a JSON object becomes the turns of a conversation."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.core.settings import import_parts
from llama_factory.core.types import Message
from llama_factory.data.formats.layout import Columns, Layout, Tags
from llama_factory.data.formats.turns import is_spoken
from llama_factory.data.formats.values import BadRowError, kind_of, names_in

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
    "parse_row",
    "register",
]


@dataclass(frozen=True)
class Content:
    """What a row teaches; the fields are those of an Example.

    `group`, `file`, `line` and `augmented_by` are set only in rows that we wrote ourselves.
    """

    messages: tuple[Message, ...]
    tools: str = ""
    rejected: Message | None = None
    is_desirable: bool | None = None
    images: tuple[str, ...] = ()
    group: str = ""
    file: str = ""
    line: int = 0
    augmented_by: str = ""


@dataclass(frozen=True)
class Format:
    """One layout of rows.

    Attributes:
        name: as people call it.
        rank: formats are tried from the lowest to the highest.
        names: what people call each column, the usual name first.
        required: a row with all of these columns is in this layout.
        layout: what the columns found are put into.
        parse: row and layout -> what it teaches; raises BadRowError.
        is_ours: whether only this program writes such rows, and spells their fields.
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
            fields: as the rows spell them, by what they are in small letters.
        """
        found = {}
        for column, names in {**self.names, **OWN_NAMES}.items():
            called = next((fields[name] for name in names if name in fields), None)
            if called is not None:
                found[column] = called
        if not all(column in found for column in self.required):
            return None
        if self.is_ours and any(name != fields[name] for name in self.required):
            return None
        return replace(self.layout, columns=Columns.only(**found), is_found=True)


OWN_NAMES = {"group": ("group",), "weight": ("weight",)}
"""Columns of any layout that nobody named: a row's task, and its share in the loss."""


formats: dict[str, Format] = {}


def register(layout: Format) -> Format:
    """Make a layout known to `parse_row`."""
    formats[layout.name] = layout
    return layout


def as_object(row: Any, layout: Layout | None = None) -> dict[str, Any]:
    """A row as an object; a list of turns is a conversation.

    Raises:
        BadRowError: it is neither.
    """
    name = layout.columns.messages if layout else "messages"
    if name and isinstance(row, list) and row and isinstance(row[0], dict) and is_turn(row[0]):
        return {name: row}
    if not isinstance(row, dict):
        raise BadRowError(f"a row must be a JSON object, this is {kind_of(row)}.")
    return row


def parse_row(row: Mapping[str, Any], layout: Layout | None = None) -> Content:
    """What a row teaches.

    Args:
        row: as it was read.
        layout: how it is laid out; None finds that by its fields.

    Raises:
        BadRowError: it is in no known layout, or its values are wrong.
    """
    if layout is not None:
        return formats[layout.formatting].parse(row, layout)
    found = find_layout(tuple(row))
    if is_turn(row):
        raise BadRowError(ONE_TURN)
    if found is None:
        raise BadRowError(_unknown_layout(row))
    return found[0].parse(row, found[1])


ONE_TURN = (
    "this is one turn of a conversation, not a row. Put the turns of each conversation into one "
    'row, as in {"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}.'
)


def is_turn(row: Mapping[str, Any]) -> bool:
    """Whether an object is a turn of a conversation, and in no layout but that of plain text."""
    if not is_spoken(row):
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
    return f"fields {names_in(row)} are no known layout; expected {wanted}.{hint}"


import_parts(__name__, __path__)
