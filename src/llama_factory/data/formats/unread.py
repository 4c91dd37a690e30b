"""Fields of a row that nothing reads, so that they can be reported.

Fields with a row's provenance (ids, dates, sources) are not meant to be taught and are left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from llama_factory.data.formats import Layout, as_object, find_layout
from llama_factory.data.formats.content import verdict_of
from llama_factory.data.formats.layout import style_for
from llama_factory.data.formats.row_values import is_missing, without_nan
from llama_factory.data.formats.turn_parsing import THOUGHTS, turns_in

PROVENANCE = re.compile(
    r"(.*[_\-. ])?(ids?|idx|index|u?uid|guid|hash|md5|sha\d*|checksum|source|origin|provenance|"
    r"dataset|corpus|subset|date|time|datetime|timestamp|at|lang|language|locale|licen[sc]e|model|"
    r"generator|version|meta|metadata|info|count|length|len|tokens)"
    r"|url|uri|link|src|file|file_?name|path|line|row|split|config|year|created|updated|modified|"
    r"author|annotator|worker|creator|user_?name|copyright|revision|num_\w+|n_\w+|augmented_by|"
    r"unnamed: \d+|__\w+__"
)
"""Names, in small letters, of fields that hold where a row came from or how large it is."""
READ_IN_TURNS = frozenset({"tool_calls", "function_call", "tool_call_id", "name", *THOUGHTS})
TURN_COLUMNS = frozenset({"messages"})
ANSWER_COLUMNS = frozenset({"prompt", "query", "response", "history"})
PAIR_COLUMNS = frozenset({"chosen", "rejected"})


def unread_fields(row: Any, layout: Layout | None) -> Iterator[str]:
    """Names of the fields that hold something and that nothing reads.

    Args:
        row: as it was read, and in this layout.
        layout: how it is laid out; None infers that from its fields.
    """
    row = as_object(row, layout)
    if layout is None:
        found = find_layout(tuple(row))
        if found is None or found[0].is_ours:
            return
        layout = found[1]
    yield from (name for name in _unread(tuple(row), layout) if _holds(row, name))
    label = layout.columns.kto_tag
    if label is not None and _holds(row, label) and verdict_of(without_nan(row), layout) is None:
        yield label
    name = layout.columns.messages
    if name in row and _is_read("messages", layout):
        yield from (f"{name}[].{each}" for each in _unread_in_turns(row, layout))


def _holds(row: Mapping[str, Any], name: str) -> bool:
    value = without_nan(row.get(name))
    return not is_missing(value) and value != {}


@lru_cache(maxsize=1024)
def _unread(names: tuple[str, ...], layout: Layout) -> tuple[str, ...]:
    """Of the names of a row's fields, those that are in no column and look like content."""
    columns = layout.columns
    read = {getattr(columns, each.name) for each in fields(columns) if _is_read(each.name, layout)}
    return tuple(name for name in names if name not in read and not is_provenance(name))


def _is_read(column: str, layout: Layout) -> bool:
    """Whether parsing rows in this layout reads a column; an entry may name others, too."""
    if column in PAIR_COLUMNS:
        return layout.ranking
    return column not in (TURN_COLUMNS if layout.formatting == "alpaca" else ANSWER_COLUMNS)


def is_provenance(name: str) -> bool:
    """Whether a field of this name holds where a row came from, and nothing to be taught."""
    small = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower()
    return PROVENANCE.fullmatch(small) is not None


def _unread_in_turns(row: Mapping[str, Any], layout: Layout) -> list[str]:
    listed = turns_in(row, layout)
    style = style_for(layout, listed)
    read = READ_IN_TURNS | {style.role_field, style.content_field}
    read |= {"weight", "loss"} if style.has_weights else set()
    others = (name for turn in listed for name in turn.keys() - read if _holds(turn, name))
    return [name for name in dict.fromkeys(others) if not is_provenance(name)]
