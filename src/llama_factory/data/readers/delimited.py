"""Comma- and tab-separated values with a header line."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from llama_factory.core.errors import DataError
from llama_factory.data import file_sentences as texts
from llama_factory.data.readers import LONGEST_ROW_BYTES, RawRow, Reader, Refused, register_reader
from llama_factory.data.readers.lines import OversizedLine, decoded, lines_of, refuse_oversized
from llama_factory.data.readers.streams import Opened

DELIMITERS = ",;\t|"
NAMED_DELIMITER = re.compile(r'"?sep=([^"\r\n])"?\s*')
"""A first line for spreadsheet programs: it names the character between columns."""


def read_delimited(opened: Opened) -> Iterator[RawRow | Refused]:
    """Every record under the header; a ragged or broken one does not stop the rest."""
    csv.field_size_limit(LONGEST_ROW_BYTES)
    lines = _PushbackLines(lines_of(opened))
    delimiter, is_named = _delimiter(opened)
    if is_named:
        next(lines)
    header = _header(opened, _record(opened, lines, delimiter))
    for record in _records(opened, lines, delimiter):
        yield record if isinstance(record, Refused) else _row(opened, record, header)


@dataclass
class _PushbackLines:
    """Lines that can be put back."""

    source: Iterator[tuple[int, bytes | OversizedLine]]
    waiting: deque[tuple[int, bytes | OversizedLine]] = field(default_factory=deque)

    def __iter__(self) -> Iterator[tuple[int, bytes | OversizedLine]]:
        return self

    def __next__(self) -> tuple[int, bytes | OversizedLine]:
        return self.waiting.popleft() if self.waiting else next(self.source)

    def put_back(self, lines: list[tuple[int, bytes]]) -> None:
        """Make these lines the next ones."""
        self.waiting.extendleft(reversed(lines))


@dataclass
class _Record:
    """The fields of one record, which may span several lines."""

    number: int
    fields: list[str]
    text: str


def _records(opened: Opened, lines: _PushbackLines, delimiter: str) -> Iterator[_Record | Refused]:
    """All records but those of separators alone, which spreadsheets write for blank lines."""
    while (record := _record(opened, lines, delimiter)) is not None:
        if isinstance(record, Refused) or record.text.strip(f"{delimiter} \t\r\n"):
            yield record


def _record(opened: Opened, lines: _PushbackLines, delimiter: str) -> _Record | Refused | None:
    """The next record, or None at the end."""
    first = next(
        (each for each in lines if isinstance(each[1], OversizedLine) or each[1].strip()), None
    )
    if first is None:
        return None
    number, line = first
    if isinstance(line, OversizedLine):
        return refuse_oversized(opened, number, line)
    taken = [(number, line)]
    try:
        fields = next(csv.reader(_feed(lines, taken), delimiter=delimiter, strict=True))
    except csv.Error as error:
        lines.put_back(taken[1:])
        return _broken(opened, number, line, error, delimiter)
    whole = b"".join(each for _, each in taken)
    text = decoded(opened, number, whole)
    return text if isinstance(text, Refused) else _Record(number, fields, text)


def _feed(lines: _PushbackLines, taken: list[tuple[int, bytes]]) -> Iterator[str]:
    """Lines for the csv module as far as it asks for them; each is noted in `taken`."""
    yield taken[0][1].decode(errors="surrogateescape")
    size = len(taken[0][1])
    for number, line in lines:
        if isinstance(line, OversizedLine) or size + len(line) > LONGEST_ROW_BYTES:
            lines.waiting.appendleft((number, line))
            return
        taken.append((number, line))
        size += len(line)
        yield line.decode(errors="surrogateescape")


def _broken(
    opened: Opened, number: int, line: bytes, error: csv.Error, delimiter: str
) -> _Record | Refused:
    text = decoded(opened, number, line)
    if isinstance(text, Refused):
        return text
    text = text.rstrip("\r\n")
    if delimiter == "\t":  # most tab-separated files have no rule for quotes
        return _Record(number, text.split("\t"), text)
    return Refused(opened.file, number, texts.QUOTES(error=error), text)


def _delimiter(opened: Opened) -> tuple[str, bool]:
    """What separates the columns, and whether the first line does nothing but name it."""
    with opened.text() as stream:
        first = stream.readline(LONGEST_ROW_BYTES).decode(errors="replace")
    if named := NAMED_DELIMITER.fullmatch(first):
        return named[1], True
    if opened.path.name.lower().removesuffix(".gz").removesuffix(".zst").endswith(".tsv"):
        return "\t", False
    return max(DELIMITERS, key=first.count), False


def _header(opened: Opened, record: _Record | Refused | None) -> list[str]:
    if isinstance(record, Refused):
        raise DataError(texts.HEADER_UNREADABLE(why=record.reason))
    if record is None:
        raise DataError(texts.NO_HEADER())
    names = [name.strip() for name in record.fields]
    if not any(names):
        raise DataError(texts.HEADER_NAMELESS())
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise DataError(texts.HEADER_TWICE(name=twice))
    return names


def _row(opened: Opened, record: _Record, header: list[str]) -> RawRow | Refused:
    text = record.text.rstrip("\r\n")
    fields = _fitted(record.fields, header)
    if fields is None:
        counts = {"fields": len(record.fields), "columns": len(header)}
        reason = texts.NUM_FIELDS(**counts, names=", ".join(header))
        return Refused(opened.file, record.number, reason, text)
    if "\0" in text:
        return Refused(opened.file, record.number, texts.NUL(), text)
    return RawRow(record.number, dict(_named(header, fields)))


def _fitted(fields: list[str], header: list[str]) -> list[str] | None:
    """One field for each column; None where other fields than empty ones at the end differ."""
    missing, more = header[len(fields) :], fields[len(header) :]
    if any(missing) or any(each.strip() for each in more):
        return None
    return [*fields[: len(header)], *[""] * len(missing)]


def _named(header: list[str], fields: list[str]) -> Iterator[tuple[str, str]]:
    """Names and values. Numbers of rows, and nothing at all, need no name: they are left out."""
    for number, (name, value) in enumerate(zip(header, fields, strict=True), 1):
        if name:
            yield name, value
        elif value.strip() and not value.strip().isdecimal():
            yield f"(column {number} without a name)", value


register_reader(Reader("CSV", (".csv", ".tsv"), read_delimited))
