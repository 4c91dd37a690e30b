"""The cache of clean rows: a folder for each source as it was read, named by all it depends on."""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from llama_factory.core import __version__, files, plugins
from llama_factory.core.errors import DataError
from llama_factory.data.cleaning import CLEANERS, RowStep
from llama_factory.data.sources.files import DataSource, data_files
from llama_factory.text import signatures

CACHE_DAYS = 30
READING = 3
"""Counts how files have been read so far: what they came to otherwise is not used again."""
SOURCE_NAME = re.compile("[0-9a-f]{32}")
"""What the folder of a source is called in the cache, where other things lie too."""
OLD = ".old"
"""End of the names of folders in the cache that are being removed."""
DONE = "done"
"""Name of the file that marks a source as read to its end."""


def fingerprint(source: DataSource, steps: Sequence[RowStep]) -> str:
    """Identifies what a source comes to: its content, how it is read, and the steps."""
    settings = [CLEANERS.name_of(step) + step.model_dump_json() for step in steps]
    path = source.path
    paths = [path] if path and path.is_file() else data_files(path) if path else []
    content = [[each.name, files.sha256(each)] for each in paths if each.is_file()]
    how = [source.name, repr(source.hub), repr(source.layout), source.encoding]
    folder = str(source.pictures.resolve()) if source.pictures else ""
    parts = [__version__, READING, signatures.version(), content, how, folder, *plugins.identity()]
    identity = json.dumps([*parts, *settings])
    return hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()


def begin_use(cache: Path, folders: Iterable[Path]) -> None:
    """Mark the folders of sources as used today.

    What has not been used for CACHE_DAYS days is removed, and so is what killed processes left.
    """
    with _locked(cache):
        for folder in folders:
            _mark_used(folder)
        old = _set_old_aside(cache)
    _remove(old)


def complete(folder: Path, source: DataSource, steps: Sequence[RowStep]) -> None:
    """Mark a source as read to its end.

    Raises:
        DataError: it was changed while it was read, so that its rows are not those of the content
            under whose hash they were about to be kept.
    """
    if source.path is not None and fingerprint(source, steps) != folder.name:
        shutil.rmtree(folder, ignore_errors=True)
        raise DataError("was changed while it was read. Wait until it is whole, and try again.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DONE).touch()


def _locked(cache: Path) -> AbstractContextManager[None]:
    """Nobody marks what is used, or puts aside what is not, at the same time."""
    return files.locked(cache / ".lock", what="looking through the cache", seconds=60)


def _mark_used(folder: Path) -> None:
    """A source that begins to be used today is not removed while it is."""
    if (folder / DONE).exists():
        (folder / DONE).touch()
    elif folder.exists():
        os.utime(folder)


def _set_old_aside(cache: Path) -> list[Path]:
    """Rename what is to go, so that nobody opens a half of it; removing takes longer."""
    oldest = time.time() - CACHE_DAYS * 24 * 3600
    aside = [path for path in cache.glob(f"*{OLD}") if path.is_dir()]
    for folder in cache.iterdir():
        if SOURCE_NAME.fullmatch(folder.name) and _last_use(folder) < oldest:
            aside.append(files.temporary_beside(folder).with_suffix(OLD))
            folder.rename(aside[-1])
    return aside


def _last_use(folder: Path) -> float:
    done = folder / DONE
    return (done if done.exists() else folder).stat().st_mtime


def _remove(folders: Iterable[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # another process may be at it
