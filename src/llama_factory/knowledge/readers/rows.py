"""Tables and JSON lines: each row is a passage of its own, its values with their names."""

import csv
import json
from collections.abc import Iterator
from typing import Any

from llama_factory.knowledge.documents import Block, DocumentError, OpenedDocument

DELIMITERS = ",;\t|"
MAX_FIELD_CHARACTERS = 1_000_000


def read_table(document: OpenedDocument) -> Iterator[Block]:
    """See `Read`; the first row names the columns."""
    lines = document.lines()
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    delimiter = max(DELIMITERS, key=first[1].count)
    header = next(csv.reader([first[1]], delimiter=delimiter))
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    numbered = _Numbered(lines)
    records = csv.reader(numbered, delimiter=delimiter)
    while True:
        begins = numbered.number + 1
        try:
            record = next(records, None)
        except csv.Error as error:
            raise DocumentError(
                f"line {begins} is no row of a table ({error}). Mend it there."
            ) from error
        if record is None:
            return
        yield Block(_named(header, record), line=max(begins, first[0] + 1), is_alone=True)


class _Numbered:
    """Lines, with the number of the last one that was taken."""

    def __init__(self, lines: Iterator[tuple[int, str]]) -> None:
        self._lines, self.number = lines, 1

    def __iter__(self) -> "_Numbered":
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        return line


def _named(header: list[str], record: list[str]) -> str:
    """`name: value` a line; values without a name stand alone."""
    names = [*header, *[""] * (len(record) - len(header))]
    pairs = ((name.strip(), value.strip()) for name, value in zip(names, record, strict=False))
    return "\n".join(f"{name}: {value}" if name else value for name, value in pairs if value)


def read_jsonl(document: OpenedDocument) -> Iterator[Block]:
    """See `Read`; a line that is no JSON is left out and noted."""
    wrong: list[int] = []
    num_rows = 0
    for number, line in _whole_lines(document):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            wrong.append(number)
            continue
        num_rows += 1
        yield Block(_described(value), line=number, is_alone=True)
    if wrong and not num_rows:
        raise DocumentError("holds no line of JSON. Is it another kind of file?")
    if wrong:
        document.notes.append(f"{len(wrong)} lines are no JSON; the first is line {wrong[0]}")


def _whole_lines(document: OpenedDocument) -> Iterator[tuple[int, str]]:
    """Lines whose pieces are put together, up to the longest value that is read."""
    parts: list[str] = []
    for number, piece in document.lines():
        parts.append(piece)
        if sum(map(len, parts)) > MAX_FIELD_CHARACTERS:
            raise DocumentError(
                f"line {number} has more than {MAX_FIELD_CHARACTERS:,} characters. Split it."
            )
        if piece.endswith("\n"):
            yield number, "".join(parts)
            parts = []
    if parts:
        yield number, "".join(parts)


def _described(value: Any) -> str:
    """`name: value` a line for an object; anything else as it is."""
    if not isinstance(value, dict):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    shown = {name: each for name, each in value.items() if each not in (None, "", [], {})}
    return "\n".join(
        f"{name}: {each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)}"
        for name, each in shown.items()
    )
