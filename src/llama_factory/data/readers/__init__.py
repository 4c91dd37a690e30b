"""Kinds of files, one file each: how the bytes of a file become rows, in bounded memory."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_factory.core.settings import import_parts

if TYPE_CHECKING:
    from llama_factory.data.readers.streams import Opened

LONGEST_ROW_BYTES = 16 * 2**20
"""A longer row is skipped and refused: it never is as a whole in memory."""
SHOWN_CHARACTERS = 200
"""Of a row that is too long to keep, this much is shown."""


@dataclass(frozen=True)
class Refused:
    """Something that is not taught: a row (`line` is its place) or a whole file (`line` is 0)."""

    file: str
    line: int
    reason: str
    text: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.reason}"


@dataclass(frozen=True)
class RawRow:
    """One row as its file holds it.

    Attributes:
        line: 1-based line (jsonl, csv, txt) or row number (json, parquet, arrow).
        value: plain values; an object if it is a good row.
        file: name of the file, where a set of rows has several.
    """

    line: int
    value: Any
    file: str = ""


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        name: as people call it.
        suffixes: of files of this kind, unless their content shows another one.
        read: an open file -> its rows, in order; bad ones as `Refused`; raises DataError.
        magic: bytes of which files of this kind begin with one; empty for text.
    """

    name: str
    suffixes: tuple[str, ...]
    read: "Callable[[Opened], Iterator[RawRow | Refused]]"
    magic: tuple[bytes, ...] = ()


def as_json_line(value: Any) -> str:
    """A value as one line of JSON; halves of surrogate pairs are written as escapes."""
    return storable(json.dumps(value, ensure_ascii=False, default=str))


def storable(text: str) -> str:
    """Text that can be stored as UTF-8; halves of surrogate pairs are written as escapes."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


readers: dict[str, Reader] = {}


def register_reader(reader: Reader) -> Reader:
    """Make a kind of file known."""
    readers[reader.name] = reader
    return reader


import_parts(__name__, __path__)
