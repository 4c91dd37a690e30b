"""Fields that a row holds and nothing reads: counted, so that a person is told of them.

Those that only say where a row came from are not meant to be taught and are left out.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from llama_factory.data.formats import Layout, as_object, find_layout
from llama_factory.data.formats.conversation import turns_in, wording_for
from llama_factory.data.formats.extras import verdict_of
from llama_factory.data.formats.turns import THOUGHTS
from llama_factory.data.formats.values import is_missing, without_nan

PROVENANCE = re.compile(
    r"(.*[_\-. ])?(ids?|idx|index|u?uid|guid|hash|md5|sha\d*|checksum|source|origin|provenance|"
    r"dataset|corpus|subset|date|time|datetime|timestamp|at|lang|language|locale|licen[sc]e|model|"
    r"generator|version|meta|metadata|info|count|length|len|tokens)"
    r"|url|uri|link|src|file|file_?name|path|line|row|split|config|year|created|updated|modified|"
    r"author|annotator|worker|creator|user_?name|copyright|revision|num_\w+|n_\w+|augmented_by|"
    r"unnamed: \d+|__\w+__"
)
"""Names, in small letters, that say where a row came from or how large it is."""
OF_A_TURN = frozenset({"tool_calls", "function_call", "tool_call_id", "name", *THOUGHTS})
OF_TALKS = frozenset({"messages"})
OF_ONE_ANSWER = frozenset({"prompt", "query", "response", "history"})
OF_PAIRS = frozenset({"chosen", "rejected"})


def unread_fields(row: Any, layout: Layout | None) -> Iterator[str]:
    """Names of the fields that hold something and that nothing reads.

    Args:
        row: as it was read, and in this layout.
        layout: how it is laid out; None finds that by its fields.
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
    return tuple(name for name in names if name not in read and not says_where_from(name))


def _is_read(column: str, layout: Layout) -> bool:
    """Whether rows in a layout are asked for a column; an entry may name others, too."""
    if column in OF_PAIRS:
        return layout.ranking
    return column not in (OF_TALKS if layout.formatting == "alpaca" else OF_ONE_ANSWER)


def says_where_from(name: str) -> bool:
    """Whether a field of this name says where a row came from, and nothing to be taught."""
    small = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower()
    return PROVENANCE.fullmatch(small) is not None


def _unread_in_turns(row: Mapping[str, Any], layout: Layout) -> list[str]:
    listed = turns_in(row, layout)
    wording = wording_for(layout, listed)
    read = OF_A_TURN | {wording.role, wording.content}
    read |= {"weight", "loss"} if wording.has_weights else set()
    others = (name for turn in listed for name in turn.keys() - read if _holds(turn, name))
    return [name for name in dict.fromkeys(others) if not says_where_from(name)]
