"""JSON values one after the other: the rows of a list, wherever it lies, or objects in sequence.

A list of turns is one row: a conversation. Brackets around other objects are ignored. Values are
decoded one by one from a buffer, so a list of any size never is as a whole in memory; a broken row
is skipped up to where the next one begins.
"""

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from llama_factory.data import file_sentences as texts
from llama_factory.data.formats import find_layout, is_turn
from llama_factory.data.readers import (
    LONGEST_ROW_BYTES,
    SHOWN_CHARACTERS,
    RawRow,
    Reader,
    Refused,
    register_reader,
    storable,
)
from llama_factory.data.readers.lines import decoded, oversize_reason
from llama_factory.data.readers.streams import Opened

CHUNK_BYTES = 256 * 1024
WRAPPERS = ("data", "rows", "train", "examples", "items", "instances", "samples", "dataset")
"""Names under which people put the list of rows into an object."""
BETWEEN = re.compile(r"[\s,\[\]]*")
"""What may stand between two rows."""
START = re.compile(r'(?:(?<=\n)\[\s*)?\{\s*"')
TURN_LIST_START = re.compile(r'(?:\[\s*)?\{\s*"')
"""An object or a list of them; where rows are objects, a list is a row only if it begins a line."""
WRAPPED = re.compile(
    r'\{\s*(?:"[^"]*"\s*:\s*(?:"[^"]*"|[\w.+-]+)\s*,\s*)*"(\w+)"\s*:\s*(?=\[\s*[{\[\]])'
)
"""An object that begins with a list, perhaps after a few plain values."""
INNER_FIELDS = frozenset({"role", "from", "content", "value", "name", "arguments", "function"})
"""Fields of the objects inside a row, which are no rows."""
SLACK = 64
"""An error this close to the end of the buffer may only mean that more is to come."""
MOST_SHOWN = 2**16
"""Characters kept of a broken row."""

_decoder = json.JSONDecoder()


def read_json_values(opened: Opened) -> Iterator[RawRow | Refused]:
    """Every row, counted from 1."""
    with opened.text() as stream:
        values = _Values(opened, stream)
        values.skip_wrapper()
        while (row := values.next_row()) is not None:
            yield row


def is_wrapped(head: str) -> bool:
    """Whether a file begins with an object that holds the list of rows."""
    found = WRAPPED.match(head.lstrip())
    return found is not None and found[1] in WRAPPERS


@dataclass
class _Broken:
    """Why no value begins at a place; `is_cut` if the buffer may only have ended too early."""

    reason: str
    is_cut: bool


@dataclass
class _Values:
    """A window of the text that moves over the file.

    Attributes:
        buffer: text that was read, needed from `place` on.
        place: where in the buffer the next value, or what is before it, begins.
        number: of the row that is being read, from 1.
        is_whole: whether nothing is left in the file beyond the buffer.
        is_wrapped: whether an object holds the list of rows.
        is_first: whether the next value is the first of its list.
        has_turn_lists: whether rows may be lists of turns.
        has_wrong_bytes: whether bytes were read that are not in the file's encoding.
        fields: names of the first good row's fields.
    """

    opened: Opened
    stream: IO[bytes]
    buffer: str = ""
    place: int = 0
    number: int = 0
    is_whole: bool = False
    is_wrapped: bool = False
    is_first: bool = False
    has_turn_lists: bool = False
    has_wrong_bytes: bool = False
    fields: frozenset[str] = frozenset()
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("surrogateescape")
    )

    def skip_wrapper(self) -> None:
        """Go to the list of rows, if the file is an object that holds it."""
        self._grow()
        start = len(self.buffer) - len(self.buffer.lstrip())
        found = WRAPPED.match(self.buffer, start)
        if found is not None and found[1] in WRAPPERS:
            self.place, self.is_wrapped = found.end(), True

    def next_row(self) -> RawRow | Refused | None:
        """The next row, or None at the end."""
        if not self._skip_between():
            return None
        self.number += 1
        value, end = self._decode_whole(0)
        if self.is_first and isinstance(value, dict) and is_turn(value):
            value, end = self._begin_turn_lists()
        if isinstance(value, _Broken):
            return self._skip_broken(value)
        refused = self._refused(end)
        self.place = end
        if refused is None and isinstance(value, dict):
            self.fields = self.fields or frozenset(value)
        return refused or RawRow(self.number, value)

    def _begin_turn_lists(self) -> tuple[Any, int]:
        """Take the list of rows for the first row itself, a list of turns; returns that row."""
        self.has_turn_lists = True
        self.buffer, self.place = f"[{self.buffer[self.place :]}", 0
        value, end = self._decode_whole(0)
        if isinstance(value, list) and any(isinstance(turn, list) for turn in value):
            value = _Broken(texts.LIST_IN_LIST(), is_cut=False)
        return value, end

    def _refused(self, end: int) -> Refused | None:
        """Why the value from the place to `end` is not taught although it is valid JSON."""
        is_long = end - self.place > LONGEST_ROW_BYTES
        if not (is_long or self.has_wrong_bytes):
            return None
        data = self.buffer[self.place : end].encode(errors="surrogateescape")
        if is_long:
            start = self.buffer[self.place : self.place + SHOWN_CHARACTERS]
            return Refused(
                self.opened.file, self.number, oversize_reason(len(data)), storable(start)
            )
        text = decoded(self.opened, self.number, data)
        return text if isinstance(text, Refused) else None

    def _skip_between(self) -> bool:
        """Go to where the next value begins; False at the end of the rows."""
        is_closed = self.is_first = False
        while True:
            found = BETWEEN.match(self.buffer, self.place)
            if found is not None:
                is_closed |= "]" in found[0]
                marks = "".join(found[0].split())
                self.is_first = marks.endswith("[") if marks else self.is_first
                self.has_turn_lists |= marks.endswith(("[[", ",["))
                self.place = found.end()
            if self.place < len(self.buffer):
                is_after = self.is_wrapped and is_closed and self.buffer[self.place] != "{"
                return not is_after
            if not self._grow():
                return False

    def _decode_whole(self, offset: int) -> tuple[Any, int]:
        """The value that begins `offset` after the place, and its end; grows the buffer for it."""
        value, end = self._decode(self.place + offset)
        while isinstance(value, _Broken) and value.is_cut and self._has_room(offset):
            self._grow()
            value, end = self._decode(self.place + offset)
        return value, end

    def _has_room(self, offset: int) -> bool:
        return len(self.buffer) - self.place - offset <= LONGEST_ROW_BYTES

    def _decode(self, place: int) -> tuple[Any, int]:
        try:
            value, end = _decoder.raw_decode(self.buffer, place)
        except json.JSONDecodeError as error:
            near_end = error.pos >= len(self.buffer) - SLACK
            is_cut = near_end or error.msg.startswith("Unterminated string")
            reason = texts.AT_CHARACTER(why=error.msg, character=error.pos - place + 1)
            return _Broken(reason, is_cut and not self.is_whole), place
        except (ValueError, RecursionError) as error:
            return _Broken(str(error), is_cut=False), place
        if end == len(self.buffer) and not self.is_whole and self.buffer[end - 1] not in '}]"':
            return _Broken("a number that may go on", is_cut=True), place
        return value, end

    def _grow(self) -> bool:
        """Double what the buffer holds from `place` on; False at the end of the file."""
        rest = self.buffer[self.place :]
        data = self.stream.read(max(CHUNK_BYTES, len(rest)))
        self.is_whole = not data
        text = self.decoder.decode(data, self.is_whole)
        if not self.has_wrong_bytes:
            self.has_wrong_bytes = not _is_clean(text)
        self.buffer, self.place = rest + text, 0
        return bool(text)

    def _skip_broken(self, broken: _Broken) -> Refused:
        """Refuse the row at `place` and go to where the next one begins."""
        text, num_bytes = self._to_next_row()
        if broken.is_cut:
            start = text[:SHOWN_CHARACTERS]
            return Refused(self.opened.file, self.number, oversize_reason(num_bytes), start)
        is_last = self.is_whole and self.place >= len(self.buffer)
        reason = texts.BROKEN_ROW(why=broken.reason)
        reason = texts.HALF_WRITTEN(why=reason) if is_last else reason
        return Refused(self.opened.file, self.number, reason, text)

    def _to_next_row(self) -> tuple[str, int]:
        """Move to where the next row begins; the start of the text skipped, and its size."""
        shown, num_bytes, is_found, is_end = "", 0, False, False
        offset = 1
        while not is_found and not is_end:
            is_found, offset = self._find_row(offset)
            part = self.buffer[self.place : self.place + offset]
            num_bytes += len(part.encode(errors="surrogateescape"))
            shown += part[: MOST_SHOWN - len(shown)]
            self.place += len(part)
            is_end = not is_found and not self._grow()
            offset = 0
        rest = self.buffer[self.place :] if is_end else ""
        self.place += len(rest)
        shown = (shown + rest).rstrip(" \n\r\t,")
        num_bytes += len(rest.encode(errors="surrogateescape"))
        return shown.encode(errors="surrogateescape").decode(errors="replace"), num_bytes

    def _find_row(self, offset: int) -> tuple[bool, int]:
        """How far after the place, and after `offset`, a row begins, or how far none does."""
        start = TURN_LIST_START if self.has_turn_lists else START
        while found := start.search(self.buffer, self.place + offset):
            offset = found.start() - self.place
            if self._is_row(offset):
                return True, offset
            offset += 1
            if offset > LONGEST_ROW_BYTES:
                return False, offset
        return False, max(0, len(self.buffer) - SLACK - self.place)

    def _is_row(self, offset: int) -> bool:
        """Whether a row, and not an object inside a broken one, begins here."""
        value = self._decode_whole(offset)[0]
        if isinstance(value, list):
            return isinstance(value[0], dict) and is_turn(value[0])
        if not isinstance(value, dict):
            return isinstance(value, _Broken) and value.is_cut  # too long: refused as a row
        names = frozenset(value)
        if self.fields and 2 * len(names & self.fields) >= len(self.fields):
            return True
        if names <= INNER_FIELDS or "type" in names or is_turn(value):
            return False
        return not self.fields or find_layout(tuple(value)) is not None


def _is_clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


register_reader(Reader("JSON", (".json",), read_json_values))
