"""Values of a row, read with checks; a wrong one raises BadRowError with its reason."""

import ast
import json
import math
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llama_factory.data import row_sentences as texts

LONGEST_SHOWN_LIST = 2**20
"""Characters of a list as Python shows it; a longer one is not looked at."""


class BadRowError(ValueError):
    """A row cannot be taught; the message is the reason and how to mend it."""


MISSING_WORDS = frozenset({"", "nan", "NaN", "NaT", "<NA>", "None", "null", "NULL"})
"""What programs write into an empty cell."""


def without_nan(value: Any) -> Any:
    """A value with None in place of every NaN inside it."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {name: without_nan(part) for name, part in value.items()}
    return [without_nan(part) for part in value] if isinstance(value, list) else value


def is_missing(value: Any) -> bool:
    """Whether a field that may be left out holds nothing."""
    return value is None or (value in MISSING_WORDS if isinstance(value, str) else value == [])


def text_of(row: Mapping[str, Any], name: str, *, required: bool = True) -> str:
    """A text field of a row.

    Raises:
        BadRowError: it is no text, or empty although required.
    """
    value = row.get(name)
    if value is None and not required:
        return ""
    if value is None and name in row:
        raise BadRowError(texts.NO_VALUE(name=name))
    if not isinstance(value, str):
        if name not in row:
            raise BadRowError(texts.FIELD_MISSING(name=name, fields=names_in(row)))
        raise BadRowError(texts.NOT_TEXT(name=name, what=type_name(value)))
    if required and (not value or value.isspace()):
        raise BadRowError(texts.EMPTY(name=name))
    return checked(value, name)


def checked(text: str, name: str) -> str:
    """The text itself.

    Raises:
        BadRowError: it holds half of a character, which no file can store.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(text[error.start]):04x}"
            position = error.start + 1
            raise BadRowError(
                texts.HALF_CHARACTER(name=name, half=half, position=position)
            ) from None
    return text


def optional_text(row: Mapping[str, Any], name: str | None) -> str:
    """A text field that may be missing or have no name at all."""
    return "" if name is None or is_missing(row.get(name)) else text_of(row, name, required=False)


def list_of(row: Mapping[str, Any], name: str, what: str) -> list[Any]:
    """A list field of a row, also where it is written as text: as JSON, or as Python shows it.

    Raises:
        BadRowError: it is no list; `what` names what the list should hold.
    """
    value = row.get(name)
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = without_nan(parse_json(value) or _parse_python(value) or value)
    if not isinstance(value, list):
        raise BadRowError(texts.NOT_LIST(name=name, items=what, what=type_name(value)))
    return value


def flag_of(row: Mapping[str, Any], name: str) -> bool | None:
    """A true-or-false field of a row; None where it is missing or empty.

    Raises:
        BadRowError: it is something else.
    """
    value = row.get(name)
    if is_missing(value):
        return None
    flag = FLAGS.get(str(value).strip().lower())
    if flag is not None and isinstance(value, bool | int | float | str):
        return flag
    shown = f"{value!r:.40}"
    raise BadRowError(texts.NOT_FLAG(name=name, what=type_name(value), value=shown))


FLAGS = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


@lru_cache(maxsize=256)
def is_tool_list(text: str) -> bool:
    """Whether text is a JSON list of objects; cached, as rows of a set often have equal tools."""
    value = parse_json(text)
    return isinstance(value, list) and all(isinstance(tool, dict) for tool in value)


def tools_of(row: Mapping[str, Any], name: str | None) -> str:
    """The tools a row offers, as JSON text; empty for none.

    Raises:
        BadRowError: it is no JSON list of objects.
    """
    value = row.get(name) if name else None
    if isinstance(value, list):
        value = [_without_nulls(tool) for tool in value if tool is not None]
    if is_missing(value) or value == "[]":
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if not is_tool_list(checked(text, str(name))):
        raise BadRowError(texts.NOT_TOOLS(name=name))
    return text


def _without_nulls(schema: Any) -> Any:
    """A schema without keywords that are null: only for a default or a constant is that a value."""
    if isinstance(schema, list):
        return [_without_nulls(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_nulls(part)
        for name, part in schema.items()
        if part is not None or name in ("default", "const", "example")
    }


def _parse_python(text: str) -> Any:
    """The value of a text in which pandas writes a list into a table, or None where it is none."""
    if len(text) > LONGEST_SHOWN_LIST:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes in the text
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def parse_json(text: str) -> Any:
    """The value of a JSON text, or None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def type_name(value: Any) -> str:
    """The type of a value, in words for messages."""
    kind = TYPES.get(type(value))
    return kind() if kind else f"a {type(value).__name__}"


TYPES = {
    **{dict: texts.OBJECT, list: texts.LIST, str: texts.TEXT, bool: texts.FLAG},
    **{type(None): texts.NULL, int: texts.NUMBER, float: texts.NUMBER, bytes: texts.BYTES},
}


def names_in(row: Mapping[str, Any]) -> str:
    """The fields of a row, for messages."""
    shown = ", ".join(map(str, list(row)[:8])) or "no fields"
    return shown + (", ..." if len(row) > 8 else "")
