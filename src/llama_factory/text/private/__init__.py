"""Kinds of private data, one a file: each finds its spans in a text by pattern and validation.

`find_all` asks the kinds in order of precedence. A kind looks only at texts that hold its clue.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache

from llama_factory.core.settings import import_parts
from llama_factory.text.private.patterns import compact, plain

Span = tuple[int, int]
"""Start and end (exclusive) of private data in a text, in characters."""

Found = tuple[int, int, str]
"""A span and the name of its kind."""

Clue = Callable[[str], bool]

PRECEDENCE = ("secret", "email", "iban", "ip", "cn_id", "passport", "bank_card", "phone")
"""Who gets a span that two kinds claim, surest first; a kind that is not listed comes last."""


@dataclass(frozen=True)
class PrivateKind:
    """One kind of private data.

    Attributes:
        name: as the settings and the report call it.
        find: text -> spans, in order and without overlaps; the text's full-width characters are
            already plain ones (`characters.plain`).
        clues: whether a text can hold this kind at all, if any says so. They are asked of every
            text, so they must cost few microseconds; kinds that share one share its answer.
        canonical: the same value for all ways to write it, so that hashes agree.
    """

    name: str
    find: Callable[[str], Iterator[Span]]
    clues: tuple[Clue, ...] = (bool,)
    canonical: Callable[[str], str] = compact


KINDS: dict[str, PrivateKind] = {}


def register(kind: PrivateKind) -> PrivateKind:
    """Make a kind known."""
    KINDS[kind.name] = kind
    return kind


def may_hold(text: str, kinds: frozenset[str] | None = None) -> bool:
    """Whether any clue of these kinds (all by default) is in a text; says no to most texts."""
    return any(clue(text) for clue, _ in _by_clue(kinds))


def find_all(text: str, kinds: Collection[str] | None = None) -> list[Found]:
    """All private data in a text, in order and without overlaps.

    Marks that `private_data` left in an earlier round are not looked at again.

    Args:
        text: any text.
        kinds: names of the kinds to look for; all by default.
    """
    chosen = None if kinds is None else frozenset(kinds)
    hinted = {k.name: k for clue, group in _by_clue(chosen) if clue(text) for k in group}
    if not hinted:
        return []
    readable = plain(text)
    taken = [(*mark.span(), "") for mark in _marks().finditer(readable)]
    for kind in sorted(hinted.values(), key=_rank):
        for start, end in kind.find(readable):
            claim(taken, (start, end, kind.name))
    return [found for found in taken if found[2]]


def claim(taken: list[Found], found: Found) -> None:
    """Insert a span in its place unless it overlaps with one that is already there."""
    at = bisect_left(taken, found)
    if at and taken[at - 1][1] > found[0]:
        return
    if at < len(taken) and taken[at][0] < found[1]:
        return
    taken.insert(at, found)


def _rank(kind: PrivateKind) -> int:
    return PRECEDENCE.index(kind.name) if kind.name in PRECEDENCE else len(PRECEDENCE)


@lru_cache(maxsize=64)
def _by_clue(kinds: frozenset[str] | None) -> tuple[tuple[Clue, tuple[PrivateKind, ...]], ...]:
    grouped: dict[Clue, list[PrivateKind]] = {}
    for kind in KINDS.values():
        if kinds is None or kind.name in kinds:
            for clue in kind.clues:
                grouped.setdefault(clue, []).append(kind)
    return tuple((clue, tuple(group)) for clue, group in grouped.items())


@lru_cache(maxsize=1)
def _marks() -> re.Pattern[str]:
    names = "|".join(re.escape(name.upper()) for name in KINDS)
    return re.compile(rf"\[(?:{names})(?::[0-9a-f]{{8}})?\]")


import_parts(__name__, __path__)
