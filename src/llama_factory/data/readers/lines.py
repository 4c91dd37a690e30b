"""Files with a row on each line (JSON lines, plain text), and lines of bounded length."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from llama_factory.data import file_sentences as texts
from llama_factory.data.readers import (
    LONGEST_ROW_BYTES,
    SHOWN_CHARACTERS,
    RawRow,
    Reader,
    Refused,
    register_reader,
)
from llama_factory.data.readers.streams import Opened

SKIP_BYTES = 2**20
"""An oversized line is skipped in steps of this size."""
BROKEN = texts.BROKEN_LINE.english.partition(" (")[0]


@dataclass(frozen=True)
class OversizedLine:
    """A line of more than LONGEST_ROW_BYTES; `start` are its first characters."""

    num_bytes: int
    start: str


def lines_of(opened: Opened) -> Iterator[tuple[int, bytes | OversizedLine]]:
    """Numbered lines as bytes, with their ends."""
    number = 0
    with opened.text() as stream:
        while line := stream.readline(LONGEST_ROW_BYTES + 1):
            number += 1
            if len(line) <= LONGEST_ROW_BYTES or line.endswith(b"\n"):
                yield number, line
                continue
            size = len(line)
            start = line[: SHOWN_CHARACTERS * 4].decode(errors="replace")[:SHOWN_CHARACTERS]
            while line and not line.endswith(b"\n"):
                line = stream.readline(SKIP_BYTES)
                size += len(line)
            yield number, OversizedLine(size, start)


def refuse_oversized(opened: Opened, number: int, line: OversizedLine) -> Refused:
    """A refusal of a row that is skipped for its length."""
    return Refused(opened.file, number, oversize_reason(line.num_bytes), line.start)


def oversize_reason(num_bytes: int) -> str:
    """Why a row of this many bytes is skipped."""
    return texts.OVERSIZED(size=f"{num_bytes:,}", most=f"{LONGEST_ROW_BYTES:,}")


def decoded(opened: Opened, number: int, line: bytes) -> str | Refused:
    """A line as text, or refused with the encoding that it is likely in."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        return _wrong_byte(opened, number, line, error.start)


def _wrong_byte(opened: Opened, number: int, line: bytes, place: int) -> Refused:
    encoding = "UTF-8" if opened.encoding.startswith("utf-8") else opened.encoding
    byte, column = line[place], len(line[:place].decode()) + 1
    likely = likely_encoding(line)
    text = line.decode(likely, errors="replace").rstrip("\r\n")
    reads_as = text[column - 1 : column + 7]
    place_of = {"byte": f"0x{byte:02x}", "column": column, "text": reads_as}
    reason = texts.WRONG_BYTE(encoding=encoding, likely=likely, name=likely, **place_of)
    return Refused(opened.file, number, reason, text)


def likely_encoding(line: bytes) -> str:
    """GB18030 where all high bytes come in pairs as Chinese text has them, else cp1252."""
    place, num_pairs = 0, 0
    while place < len(line):
        if line[place] < 0x80:
            place += 1
            continue
        pair = line[place : place + 2]
        if len(pair) < 2 or not (0xA1 <= pair[0] <= 0xF7 and pair[1] >= 0xA1):
            return _western(line)
        num_pairs += 1
        place += 2
    return "gb18030" if num_pairs else _western(line)


def _western(line: bytes) -> str:
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def read_json_lines(opened: Opened) -> Iterator[RawRow | Refused]:
    """One JSON value a line; a broken line does not stop the rest."""
    last: RawRow | Refused | None = None
    for line in _text_lines(opened):
        if last is not None:
            yield last
        last = line if isinstance(line, Refused) else _json_row(opened, *line)
    if isinstance(last, Refused) and last.reason.startswith(BROKEN):
        reason = texts.HALF_WRITTEN(why=last.reason)
        last = Refused(last.file, last.line, reason, last.text)
    if last is not None:
        yield last


def read_text(opened: Opened) -> Iterator[RawRow | Refused]:
    """Plain text for pretraining: one sample a line, however long."""
    for line in _text_lines(opened):
        yield line if isinstance(line, Refused) else _text_row(opened, *line)


def _text_lines(opened: Opened) -> Iterator[tuple[int, str] | Refused]:
    """Numbered lines as text, blank ones left out."""
    for number, line in lines_of(opened):
        if isinstance(line, OversizedLine):
            yield refuse_oversized(opened, number, line)
        elif not line.isspace():
            text = decoded(opened, number, line)
            yield text if isinstance(text, Refused) else (number, text)


def _json_row(opened: Opened, number: int, text: str) -> RawRow | Refused:
    try:
        return RawRow(number, json.loads(text))
    except json.JSONDecodeError as error:
        at = texts.AT_COLUMN(why=error.msg, column=error.colno)
        reason = texts.BROKEN_LINE(why=at)
    except (ValueError, RecursionError) as error:
        reason = texts.BROKEN_LINE(why=error)
    return Refused(opened.file, number, reason, text.rstrip("\r\n"))


def _text_row(opened: Opened, number: int, text: str) -> RawRow | Refused:
    text = text.rstrip("\r\n")
    if "\0" in text:
        reason = texts.NUL_AT(column=text.index(chr(0)) + 1)
        return Refused(opened.file, number, reason, text)
    return RawRow(number, {"text": text})


register_reader(Reader("JSON lines", (".jsonl", ".ndjson"), read_json_lines))
register_reader(Reader("text", (".txt",), read_text))
