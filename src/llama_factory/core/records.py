"""Files of records that only grow, one JSON value a line: written to disk, read past torn lines."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from llama_factory.core import files

T = TypeVar("T")
UNFIT = (ValueError, KeyError, TypeError, AttributeError, IndexError)
"""What reading a record raises that was damaged, or written by another program."""


def append_records(path: Path, records: Iterable[Any]) -> None:
    """Add lines to a file, and force them to disk.

    The caller holds the lock of the folder.

    A line that a crash left half-written is ended first, so that it spoils nothing after it.

    Raises:
        VersionError: the disk is full; what had been written of these records is gone again.
    """
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        files.reporting_full_disk(path.parent, what=f"adding to {path.name}"),
        path.open("a+b", buffering=0) as file,
    ):
        size = file.seek(0, os.SEEK_END)
        try:
            _write_all(file, _missing_end(file) + lines.encode(errors="surrogatepass"))
        except BaseException:
            file.truncate(size)
            raise
        os.fsync(file.fileno())


def numbered_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number and value of each line; None for a line that is not whole."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _value(line)


def read_records(path: Path, parse: Callable[[Any], T]) -> Iterator[T]:
    """The records of a file that `parse` can read, oldest first; none where there is no file."""
    for _, value in numbered_records(path):
        try:
            record = parse(value)
        except UNFIT:
            continue
        yield record


def _write_all(file: Any, content: bytes) -> None:
    """Write all bytes: on a nearly full disk a single write takes only a part, without an error."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _missing_end(file: Any) -> bytes:
    size = file.seek(0, os.SEEK_END)
    if not size:
        return b""
    file.seek(size - 1)
    return b"" if file.read(1) == b"\n" else b"\n"


def _value(line: bytes) -> Any:
    try:
        return json.loads(line.decode(errors="surrogatepass"))
    except ValueError:
        return None
