"""Layouts of a row, one file each: how a JSON object becomes the turns of a conversation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.core.settings import import_parts
from llama_factory.core.types import Message


class BadRowError(ValueError):
    """Why a row cannot be taught and how to mend it, in one sentence."""


@dataclass(frozen=True)
class Format:
    """One layout of rows.

    Attributes:
        name: as people call it.
        fields: all fields that it reads; the first ones decide.
        required: a row with all of these is in this layout.
        parse: row -> turns; raises BadRowError.
    """

    name: str
    fields: tuple[str, ...]
    required: tuple[str, ...]
    parse: Callable[[Mapping[str, Any]], tuple[Message, ...]]


formats: dict[str, Format] = {}


def register(layout: Format) -> Format:
    """Make a layout known to `parse_row`."""
    formats[layout.name] = layout
    return layout


def parse_row(row: Any) -> tuple[Message, ...]:
    """The turns of a row in whichever layout it is.

    Raises:
        BadRowError: it is in no known layout, or its values are wrong.
    """
    if not isinstance(row, dict):
        raise BadRowError(f"a row must be a JSON object, this is {_kind(row)}.")
    for layout in formats.values():
        if all(name in row for name in layout.required):
            return layout.parse(row)
    raise BadRowError(_unknown_layout(row))


def text_of(row: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    """A text field of a row.

    Raises:
        BadRowError: it is no text, or empty although required.
    """
    value = row.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise BadRowError(f"'{name}' must be text, this is {_kind(value)}.")
    if required and not value.strip():
        raise BadRowError(f"'{name}' is empty.")
    return value


def _unknown_layout(row: Mapping[str, Any]) -> str:
    known = {name for layout in formats.values() for name in layout.fields}
    hints = [suggest(name, known) for name in row if name not in known]
    hint = next((hint for hint in hints if hint), "")
    wanted = " or ".join("+".join(layout.required) for layout in formats.values())
    return f"fields {', '.join(row) or '(none)'} are no known layout; expected {wanted}.{hint}"


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "a number")


import_parts(__name__, __path__)
