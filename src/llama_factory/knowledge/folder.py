"""The documents in a folder: which files there are and how they stand; no path leaves it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from llama_factory.knowledge.documents import DocumentChangedError, DocumentError, shown_name
from llama_factory.knowledge.readers import reader_of

UNFINISHED = (".part", ".tmp", ".crdownload", ".download", ".swp", "~")
"""Ends of the names of files that are still being written, or are left over."""


@dataclass(frozen=True)
class FileState:
    """How a file stands: while this is the same, so is what it holds.

    Attributes:
        path: where it is.
        size: in bytes.
        mark: size, times and number of the file, as text.
        changed: the later of its times, in seconds since 1970.
    """

    path: Path
    size: int
    mark: str
    changed: float

    @staticmethod
    def of(path: Path, found: os.stat_result) -> "FileState":
        """The state that the system tells of a file."""
        mark = f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
        changed = max(found.st_mtime_ns, found.st_ctime_ns) / 1e9
        return FileState(path, found.st_size, mark, changed)


@dataclass
class Scan:
    """What is in a folder, by the names that people are shown.

    Attributes:
        states: of documents.
        refused: what is left out, with the reason.
    """

    states: dict[str, FileState] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def scan(folder: Path) -> Scan:
    """Look at all files below a folder; hidden and unfinished ones are passed over.

    A folder that does not exist holds none.
    """
    result = Scan()
    root = folder.resolve()
    waiting = [root] if root.is_dir() else []
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            result.refused[_name(here, root)] = f"cannot be read ({error.strerror})."
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(UNFINISHED):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            else:
                _look(Path(entry.path), root, result)
    return result


def _look(path: Path, root: Path, result: Scan) -> None:
    """Note one file, or why it is left out."""
    name = _name(path, root)
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(root):
            result.refused[name] = "is a link that leaves the folder, and is not followed."
            return
        if target.is_dir():
            return  # a link to a folder whose files are found where they lie
        found = target.stat()
    except (OSError, RuntimeError) as error:
        result.refused[name] = f"cannot be read ({error})."
        return
    if not stat.S_ISREG(found.st_mode):
        result.refused[name] = "is a pipe or device, not a file."
        return
    try:
        reader_of(name)
    except DocumentError as error:
        result.refused[name] = str(error)
        return
    result.states[name] = FileState.of(target, found)


def _name(path: Path, root: Path) -> str:
    return shown_name(path.relative_to(root).as_posix())


@contextmanager
def opened(state: FileState) -> Iterator[BufferedReader]:
    """A document, opened as it was looked at: a link put in its place since is not followed.

    Raises:
        DocumentChangedError: it is another file by now.
        DocumentError: it is gone, or cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(state.path, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise DocumentError(f"cannot be read ({error.strerror}).") from error
    with os.fdopen(descriptor, "rb") as file:
        if FileState.of(state.path, os.fstat(descriptor)).mark != state.mark:
            raise DocumentChangedError("is being changed; it is read once it stands still.")
        yield file
