"""Files -> rows. A file that cannot be read is one problem; a bad row in a good file is another."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core.errors import DataError, suggest
from llama_factory.core.types import Example
from llama_factory.data.formats import BadRowError, parse_row

TEST_SUFFIX = ".test"


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


def read_examples(path: Path) -> Iterator[Example | Refused]:
    """All rows of a file, in order; bad rows come as `Refused`.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"files of kind '{path.suffix or path.name}' cannot be read yet."
            f"{suggest(path.suffix, READERS)} Known kinds: {', '.join(READERS)}."
        )
    group = group_of(path)
    for line, row in reader(_text(path)):
        if isinstance(row, BadRowError):
            yield Refused(path.name, line, str(row), row.args[1] if len(row.args) > 1 else "")
            continue
        try:
            yield Example(parse_row(row), _own_group(row) or group, path.name, line, _weight(row))
        except BadRowError as error:
            yield Refused(path.name, line, str(error), json.dumps(row, ensure_ascii=False))


def is_test_file(path: Path) -> bool:
    """Whether a file's rows are only for testing: `NAME.test.jsonl`."""
    return path.stem.endswith(TEST_SUFFIX)


def group_of(path: Path) -> str:
    """The task a file's rows belong to: its name without `.test` and extension."""
    return path.stem.removesuffix(TEST_SUFFIX)


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}). Check its permissions.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x}). Save the file as UTF-8."
        ) from None


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            is_last = not any(rest.strip() for rest in lines[number:])
            half = " The file may be half-written." if is_last else ""
            what = f"this line is not valid JSON ({error.msg}, column {error.colno}).{half}"
            yield number, _bad_line(what, line)


def _bad_line(what: str, line: str) -> BadRowError:
    bad = BadRowError(what)
    bad.args = (what, line)
    return bad


def _json_list(text: str) -> Iterator[tuple[int, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"not valid JSON at line {error.lineno}, column {error.colno} ({error.msg}). "
            "The file may be half-written; complete it, or use .jsonl with one object a line."
        ) from None
    if not isinstance(rows, list):
        raise DataError("a .json file must hold a list of rows. Use .jsonl for one object a line.")
    yield from enumerate(rows, 1)


def _own_group(row: dict[str, Any]) -> str | None:
    group = row.get("group")
    if group is not None and not isinstance(group, str):
        raise BadRowError("'group' must be text.")
    return group


def _weight(row: dict[str, Any]) -> float:
    weight = row.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
        raise BadRowError("'weight' must be a number above 0.")
    return float(weight)


READERS = {".jsonl": _json_lines, ".json": _json_list}
"""By file extension: text -> (line, row) pairs."""
