"""Files that are either whole or absent: atomic writes, JSON lines, hashes, locks."""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import uuid
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from llama_factory.core.errors import VersionError
from llama_factory.core.sentences import kind_of_sentence as kind

READ_ONLY_FOLDER = kind(
    "problem.read_only",
    "{folder}: this folder cannot be written to ({error}), so {doing} is not possible. "
    "Nothing was changed. Make it writable, or work on a copy elsewhere.",
)
BUSY = kind(
    "problem.busy",
    "{folder}: {who} is already {doing}. Wait until it has finished, then try again.",
)
NO_SPACE = kind(
    "problem.no_space",
    "{folder}: {name} needs about {needed} MB and {free} MB are free. Make room or move "
    "the workspace; nothing was written.",
)
FULL_DISK = kind(
    "problem.full_disk",
    "{folder}: the disk is full while {doing} ({error}). Nothing half-made was left as a "
    "version. Make room and run the same command again: it goes on.",
)

LOOK_SECONDS = 2.0
"""Longest wait for a lock that somebody only looks at: a look takes far less."""
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
"""Errors of the operating system where a file or folder may not be changed."""


def cache_folder() -> Path:
    """Where what can be made again is kept: `LLAMA_FACTORY_CACHE`, else the user's cache folder."""
    home = os.environ.get("LLAMA_FACTORY_CACHE")
    return Path(home) if home else Path.home() / ".cache" / "llama-factory"


@contextlib.contextmanager
def writing(path: Path, *, is_private: bool = False) -> Iterator[BinaryIO]:
    """Write under a temporary name in the same folder, sync, rename: readers never see a part.

    Args:
        path: the file.
        is_private: nobody but this user may read it, not even while it is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            if is_private:
                temporary.chmod(0o600)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, atomically."""
    with writing(path) as file:
        file.write(text.encode())


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Write lines one after another, atomically; they are never all in memory."""
    with writing(path) as file:
        file.writelines(lines)


def write_json(path: Path, value: Any, *, is_private: bool = False) -> None:
    """Write a value as readable JSON, atomically; `is_private` as in `writing`."""
    with writing(path, is_private=is_private) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file that this program wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value a line, atomically."""
    write_lines(path, (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))


def read_jsonl(path: Path) -> Iterator[Any]:
    """Read JSON lines that this program wrote, one at a time; a missing file has none."""
    if path.exists():
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return sha256_of(file)


def sha256_of(file: BufferedReader) -> str:
    """SHA-256 of what is left of an opened file, as hex."""
    return hashlib.file_digest(file, "sha256").hexdigest()


Stamp = tuple[int, int, int]
"""Number of a file on its disk, its size, its time in ns."""


def stamp_of(path: Path) -> Stamp | None:
    """What changes whenever a file does, or the names in a folder; None where nothing is there."""
    state = state_of(path)
    return None if isinstance(state, int) else state


def state_of(path: Path) -> Stamp | int:
    """The same; where it cannot be looked at, the number of the error that says why."""
    try:
        return stamp(path.stat())
    except OSError as error:
        return error.errno or 0


def stamp(state: os.stat_result) -> Stamp:
    """The same of a file that was looked at already."""
    return state.st_ino, state.st_size, state.st_mtime_ns


def num_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def last_lines(path: Path, most: int) -> Iterator[bytes]:
    """The whole lines in the last `most` bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        start = path.stat().st_size - most
        if start > 0:
            file.seek(start)
            file.readline()  # the rest of a line
        yield from file


def hash_folder(folder: Path, *, leave_out: frozenset[str] = frozenset()) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = ((path.relative_to(folder).as_posix(), path) for path in files)
    return {name: sha256(path) for name, path in names if name not in leave_out}


def publish(temporary: Path, final: Path) -> None:
    """Make a finished folder appear under its final name, all at once and safely on disk."""
    for path in temporary.rglob("*"):
        sync(path)
    sync(temporary)
    temporary.rename(final)
    sync(final.parent)


def temporary_beside(path: Path) -> Path:
    """A hidden name in the same folder that nobody else takes, to write under before a rename."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def settle(temporary: Path, final: Path) -> None:
    """Give a finished folder its name; where another process was faster, its folder stays.

    For what can be made again and comes out the same whoever makes it. It is not synced to disk.
    """
    try:
        temporary.rename(final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change names in one step, which no kill can cut in two.

    Returns:
        Whether that was done: only Linux can, and not on every kind of disk.
    """
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange_names = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    if rename is None:
        return False
    names = [os.fsencode(path.resolve()) for path in (one, other)]
    return bool(rename(here, names[0], here, names[1], exchange_names) == 0)


def sync(path: Path) -> None:
    """Force one file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_held(lock: Path) -> bool:
    """Whether a living process holds a lock file: a killed one holds nothing.

    Looking on changes nothing: no file is made or written. On systems without shared locks the lock
    is taken for a moment, for which whoever takes locks waits (`LOOK_SECONDS`).
    """
    if not lock.exists():
        return False
    try:
        import fcntl
    except ImportError:
        return _cannot_be_taken(lock)
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:  # released just now
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _cannot_be_taken(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def take_lock(path: Path, *, what: str, seconds: float) -> FileLock:
    """Take the operating system's lock on a file; whoever takes it releases it.

    Raises:
        Timeout: another process still holds it after `seconds`.
        VersionError: the folder cannot be written to, or its disk is full.
    """
    lock = FileLock(path)
    try:
        with reporting_full_disk(path.parent, what=what):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=max(seconds, LOOK_SECONDS), poll_interval=0.05)
    except OSError as error:
        if isinstance(error, Timeout) or error.errno not in READ_ONLY:
            raise
        raise VersionError(
            READ_ONLY_FOLDER(folder=path.parent, error=error.strerror, doing=what)
        ) from error
    return lock


@contextlib.contextmanager
def locked(path: Path, *, what: str, seconds: float) -> Iterator[None]:
    """Hold a lock file; whoever comes second waits up to `seconds`, then fails.

    Raises:
        VersionError: the lock is still held by another process after `seconds`, or the folder
            cannot be written to.
    """
    holder = path.with_suffix(".holder")
    try:
        lock = take_lock(path, what=what, seconds=seconds)
    except Timeout:
        who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise VersionError(BUSY(folder=path.parent, who=who, doing=what)) from None
    try:
        with reporting_full_disk(path.parent, what=what):
            holder.write_text(f"process {os.getpid()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def require_space(folder: Path, num_bytes: int, *, what: str) -> None:
    """Refuse early where the disk cannot hold what is about to be written.

    Raises:
        VersionError: fewer than `num_bytes` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise VersionError(
            NO_SPACE(
                folder=folder,
                name=what,
                needed=f"{num_bytes / 1e6:.0f}",
                free=f"{free / 1e6:.0f}",
            )
        )


@contextlib.contextmanager
def reporting_full_disk(folder: Path, *, what: str) -> Iterator[None]:
    """Turn 'no space left' into an error that names what is safe.

    Raises:
        VersionError: the disk (or the allowed file size) is used up.
    """
    try:
        yield
    except (OSError, SafetensorError, sqlite3.OperationalError) as error:
        if not _is_full_disk(error):
            raise
        raise VersionError(FULL_DISK(folder=folder, doing=what, error=error)) from error


def _is_full_disk(error: Exception) -> bool:
    """Safetensors leaves the operating system's number in its text, SQLite a name of its own."""
    if isinstance(error, sqlite3.OperationalError):
        return error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_IOERR"))
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if isinstance(error, OSError):
        return error.errno in numbers
    return any(f"os error {number}" in str(error) for number in numbers)
