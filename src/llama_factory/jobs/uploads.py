"""Files that come into the inbox piece by piece: a cut loses at most the piece that was sent.

What is not whole lies in the inbox under hidden names, which no round reads. The size of the part
says where the next piece goes on.
"""

import contextlib
import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.jobs import inbox
from llama_factory.versions.workspace import Workspace

NO_UPLOAD = kind("problem.no_upload", "this file is not being sent any more. Choose it again.")
SENT_ELSEWHERE = kind("problem.sent_elsewhere", "{name}: it is being sent from elsewhere. Wait.")
PIECE_PLACE = kind(
    "problem.piece_place", "{name}: {here} bytes are here, the piece begins at {start}."
)
GREW = kind("problem.upload_grew", "the file is larger than it was when it began. Choose it again.")
NOT_WHOLE = kind("problem.not_whole", "{name}: {here} of {all} bytes are here.")
MANY_UPLOADS = kind(
    "problem.many_uploads",
    "you have {count} files that are not whole. Send them to their end first, or remove them.",
)
LARGE_UPLOADS = kind(
    "problem.large_uploads",
    "{size} GB would be under way from you; at most {most} GB may be. Finish others "
    "first, or copy the file into the inbox on the server.",
)

MOST_FILES = 20
"""Unfinished files of one person."""
MOST_BYTES = 200_000_000_000
"""Of all unfinished files of one person."""
SPARE_BYTES = 200_000_000
"""Of the disk that no upload takes: rounds and the journal need room."""
OLDEST_SECONDS = 7 * 24 * 3600
"""After which a part that did not grow is removed."""
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Upload:
    """A file that is being sent.

    Attributes:
        id: of it.
        name: that it gets in the inbox.
        num_bytes: its size when it is whole.
        stamp: what else tells the file from others of its name and size, as its sender knows it.
        who: sends it.
        began: UTC time, ISO 8601.
        received: bytes that are here.
    """

    id: str
    name: str
    num_bytes: int
    stamp: str
    who: str
    began: str
    received: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        return self.received == self.num_bytes


def begin_upload(
    workspace: Workspace, who: str, name: str, num_bytes: int, stamp: str = ""
) -> Upload:
    """Make room for a file, or go on with one that the same person began to send.

    Args:
        workspace: whose inbox.
        who: sends it.
        name: of the file, as its sender calls it.
        num_bytes: its size.
        stamp: when it was changed, say: another one is another file.

    Raises:
        DataError: the name cannot be, a file of it waits, or the person sends too much at once.
        VersionError: the disk has no room for it.
    """
    plain = inbox.plain_name(name)
    waiting = [each for each in list_uploads(workspace) if each.who == who]
    same = (plain, num_bytes, stamp)
    known = next((u for u in waiting if (u.name, u.num_bytes, u.stamp) == same), None)
    if known is not None:
        return known
    inbox.require_free(workspace.inbox / plain)
    _require_modest(waiting, num_bytes)
    files.require_space(workspace.inbox, num_bytes + SPARE_BYTES, what=f"{plain!r}")
    upload = Upload(uuid.uuid4().hex, plain, num_bytes, stamp[:100], who, now())
    _part(workspace, upload.id).touch(exist_ok=False)
    files.write_json(_about(workspace, upload.id), asdict(upload))
    return upload


def read_upload(workspace: Workspace, upload_id: str) -> Upload:
    """How far a file is.

    Raises:
        DataError: no such file is being sent.
    """
    if _ID.fullmatch(upload_id):
        with contextlib.suppress(OSError, ValueError, TypeError):
            values = files.read_json(_about(workspace, upload_id))
            received = _part(workspace, upload_id).stat().st_size
            return Upload(**values | {"received": received})
    raise DataError(NO_UPLOAD())


@contextlib.contextmanager
def adding(workspace: Workspace, upload_id: str, offset: int) -> Iterator["PieceWriter"]:
    """Write the next piece of a file; what came before a cut stays.

    Args:
        workspace: whose inbox.
        upload_id: of the file.
        offset: where the piece begins in the file.

    Raises:
        DataError: another piece is being written, or the file does not end there.
    """
    upload = read_upload(workspace, upload_id)
    with _part(workspace, upload_id).open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(SENT_ELSEWHERE(name=upload.name)) from None
        end = file.seek(0, os.SEEK_END)
        if offset != end:
            raise DataError(PIECE_PLACE(name=upload.name, here=end, start=offset))
        try:
            yield PieceWriter(file, upload.num_bytes - end)
        finally:
            file.flush()
            os.fsync(file.fileno())


@dataclass
class PieceWriter:
    """Takes the bytes of a piece.

    Attributes:
        file: that they go to.
        left: bytes that the file may still get.
    """

    file: BinaryIO
    left: int

    def write(self, data: bytes) -> None:
        """Add bytes.

        Raises:
            DataError: the file gets larger than its sender said.
        """
        if len(data) > self.left:
            raise DataError(GREW())
        self.file.write(data)
        self.left -= len(data)


def finish_upload(workspace: Workspace, upload_id: str) -> Upload:
    """Give a whole file its name in the inbox; nothing is replaced.

    Raises:
        DataError: it is not whole, or a file of its name waits: it can be finished later.
    """
    upload = read_upload(workspace, upload_id)
    if not upload.is_whole:
        raise DataError(NOT_WHOLE(name=upload.name, here=upload.received, all=upload.num_bytes))
    target = workspace.inbox / upload.name
    try:
        os.link(_part(workspace, upload_id), target)
    except FileExistsError:
        inbox.require_free(target)
    _remove(workspace, upload_id)
    return upload


def remove_upload(workspace: Workspace, upload_id: str) -> Upload:
    """Throw away what is here of a file.

    Raises:
        DataError: no such file is being sent.
    """
    upload = read_upload(workspace, upload_id)
    _remove(workspace, upload_id)
    return upload


def list_uploads(workspace: Workspace) -> list[Upload]:
    """The files that are not whole, the oldest first; those that stand still for long are gone."""
    listed = []
    for path in workspace.inbox.glob(".upload-*.json"):
        upload_id = path.stem.removeprefix(".upload-")
        with contextlib.suppress(DataError, OSError):
            age = time.time() - _part(workspace, upload_id).stat().st_mtime
            if age > OLDEST_SECONDS:
                _remove(workspace, upload_id)
            else:
                listed.append(read_upload(workspace, upload_id))
    return sorted(listed, key=lambda each: each.began)


def _require_modest(waiting: list[Upload], num_bytes: int) -> None:
    total = sum(each.num_bytes for each in waiting) + num_bytes
    if len(waiting) >= MOST_FILES:
        raise DataError(MANY_UPLOADS(count=len(waiting)))
    if num_bytes < 0 or total > MOST_BYTES:
        raise DataError(LARGE_UPLOADS(size=f"{total / 1e9:.0f}", most=f"{MOST_BYTES / 1e9:.0f}"))


def _part(workspace: Workspace, upload_id: str) -> Path:
    return workspace.inbox / f".upload-{upload_id}.part"


def _about(workspace: Workspace, upload_id: str) -> Path:
    return workspace.inbox / f".upload-{upload_id}.json"


def _remove(workspace: Workspace, upload_id: str) -> None:
    for path in (_about(workspace, upload_id), _part(workspace, upload_id)):
        path.unlink(missing_ok=True)
