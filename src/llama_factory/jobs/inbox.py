"""What people put into a workspace and what waits there: names are checked, nothing is replaced."""

import os
import unicodedata
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from llama_factory.core.errors import DataError, suggest
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.data.reading import Refused
from llama_factory.data.sources import inbox as inboxes
from llama_factory.versions.workspace import Workspace

NO_FILE = kind("problem.no_inbox_file", "the inbox has no file {name}.{hint}")
NO_PLAIN_NAME = kind(
    "problem.no_plain_name", "{name} is no plain file name. Rename the file and send it again."
)
UNREAD_NAME = kind(
    "problem.unread_name", "{name} is a name of files that are not read. Rename the file."
)
LONG_NAME = kind("problem.long_name", "the file's name is longer than {most} bytes. Shorten it.")
UNREADABLE = kind(
    "problem.inbox_unreadable", "{folder} cannot be read ({error}). Make the folder again."
)
NAME_WAITS = kind(
    "problem.name_waits",
    "a file {name} waits in the inbox already. Rename yours and send it again.",
)

LONGEST_NAME = 200
"""Bytes; file systems take 255, and temporary names are longer."""
REASON_SUFFIX = ".reason.txt"


@dataclass(frozen=True)
class WaitingFile:
    """A file in the inbox.

    Attributes:
        name: of the file.
        num_bytes: its size.
        when: it was changed last, in UTC, ISO 8601.
        problem: why no round reads it; empty where one does.
    """

    name: str
    num_bytes: int
    when: str
    problem: str = ""


@dataclass(frozen=True)
class RefusedFile:
    """A whole file in quarantine.

    Attributes:
        name: of the file.
        reason: why it is there.
    """

    name: str
    reason: str


def list_inbox(workspace: Workspace) -> list[WaitingFile]:
    """What lies in the inbox, by name; what is still being written is left out."""
    readable, refused = _look(workspace)
    listed = [_waiting(path) for path in readable if path.exists()]
    listed += [WaitingFile(each.file, 0, "", each.reason) for each in refused]
    return sorted(listed, key=lambda each: each.name)


def find_waiting(workspace: Workspace, name: str) -> Path:
    """The file of a name, if it lies in the inbox: no path is ever made of the name.

    Raises:
        DataError: there is none.
    """
    readable, _ = _look(workspace)
    known = {path.name: path for path in readable}
    if name not in known:
        raise DataError(NO_FILE(name=f"{name!r}", hint=suggest(name, known)))
    return known[name]


@contextmanager
def receiving(workspace: Workspace, name: str) -> Iterator[BinaryIO]:
    """Write a new file of the inbox; rounds see it once it is whole.

    Args:
        workspace: whose inbox.
        name: of the file, as the person who sends it calls it.

    Raises:
        DataError: the name is no plain file name, or a file of that name waits already.
    """
    target = workspace.inbox / plain_name(name)
    require_free(target)
    temporary = workspace.inbox / f".{uuid.uuid4().hex}.part"
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)  # unlike a rename, it replaces nothing
        except FileExistsError:
            require_free(target)
    finally:
        temporary.unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """A name as it is kept.

    Raises:
        DataError: it is a path, hidden, too long, or holds what no name should.
    """
    plain = unicodedata.normalize("NFC", name).strip()
    if not plain or "/" in plain or "\\" in plain or not plain.isprintable():
        raise DataError(NO_PLAIN_NAME(name=f"{name[:80]!r}"))
    if inboxes.is_unfinished(plain):
        raise DataError(UNREAD_NAME(name=f"{plain!r}"))
    if len(plain.encode()) > LONGEST_NAME:
        raise DataError(LONG_NAME(most=LONGEST_NAME))
    return plain


def list_refused_files(workspace: Workspace) -> list[RefusedFile]:
    """The whole files in quarantine with the reason of each."""
    found = sorted(workspace.quarantine.glob(f"*{REASON_SUFFIX}"))
    return [
        RefusedFile(
            inboxes.shown(path.name.removesuffix(REASON_SUFFIX)),
            path.read_text(encoding="utf-8", errors="replace").strip(),
        )
        for path in found
    ]


def _look(workspace: Workspace) -> tuple[list[Path], list[Refused]]:
    try:
        return inboxes.candidates(workspace.inbox)
    except OSError as error:
        raise DataError(UNREADABLE(folder=workspace.inbox, error=error.strerror)) from error


def _waiting(path: Path) -> WaitingFile:
    state = path.stat()
    when = datetime.fromtimestamp(state.st_mtime, UTC).isoformat(timespec="seconds")
    return WaitingFile(path.name, state.st_size, when)


def require_free(target: Path) -> None:
    """Refuse where a file would be replaced.

    Raises:
        DataError: one of this name waits.
    """
    if target.exists() or target.is_symlink():
        raise DataError(NAME_WAITS(name=f"{target.name!r}"))
