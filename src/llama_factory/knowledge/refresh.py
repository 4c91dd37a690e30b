"""Brings the index up to date with the folder: only what changed is read again."""

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path

from llama_factory.core import files
from llama_factory.knowledge.chunks import Chunk, chunks_of
from llama_factory.knowledge.documents import DocumentChangedError, DocumentError, OpenedDocument
from llama_factory.knowledge.embedders import Embedder
from llama_factory.knowledge.folder import FileState, Scan, opened, scan
from llama_factory.knowledge.index import IndexedFile, KnowledgeIndex, delete_index
from llama_factory.knowledge.readers import read_blocks
from llama_factory.knowledge.settings import KnowledgeSettings

logger = logging.getLogger(__name__)

YOUNG_SECONDS = 2.0
"""A file changed this shortly before it was read may change again without another time."""
EMBEDDED_AT_ONCE = 16
LOCK_SECONDS = 60.0


@dataclass
class Refreshed:
    """What a look at the folder came to.

    Attributes:
        read: documents that are new or changed.
        removed: documents that are gone.
        refused: documents that are newly left out, with the reason.
    """

    read: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.read or self.removed or self.refused)


@dataclass(frozen=True)
class Library:
    """Documents and where they are indexed.

    Attributes:
        folder: of the documents.
        database: the index.
        settings: limits and lengths.
        clock: seconds, from any beginning; for the limit on each file.
        now: seconds since 1970, which files' times are compared with.
    """

    folder: Path
    database: Path
    settings: KnowledgeSettings
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time

    def refresh(self) -> Refreshed:
        """Read what is new or changed, forget what is gone.

        A damaged index is made again. Where another process is at it, it is waited for.

        Raises:
            VersionError: another process has been at it for longer than a minute, or the cache
                cannot be written to.
        """
        try:
            return self._refresh()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                raise
            logger.warning("%s is damaged (%s) and is made again", self.database, error)
            with self._locked():
                delete_index(self.database)
            return self._refresh()

    def _refresh(self) -> Refreshed:
        found = scan(self.folder)
        with self.opened() as index:
            if not self._is_old(index, found):
                return Refreshed()
            with self._locked():
                return self._bring_up(index, found)

    def opened(self) -> "_Opened":
        """The index, for a `with` block."""
        return _Opened(self.database)

    def _locked(self) -> AbstractContextManager[None]:
        lock = self.database.with_suffix(".lock")
        return files.locked(lock, what="indexing knowledge", seconds=LOCK_SECONDS)

    def _is_old(self, index: KnowledgeIndex, found: Scan) -> bool:
        if index.fact("settings") != self._identity:
            return True
        marks = index.marks()
        names = found.states.keys() | found.refused.keys()
        return names != marks.keys() or any(
            marks[name] != state.mark for name, state in found.states.items()
        )

    @property
    def _identity(self) -> str:
        """What passages depend on beside the documents."""
        return f"{self.settings.chunk_tokens} {self.settings.limits.model_dump_json()}"

    def _bring_up(self, index: KnowledgeIndex, found: Scan) -> Refreshed:
        index.require_settings(self._identity)
        known, done = index.files(), Refreshed()
        gone = known.keys() - found.states.keys() - found.refused.keys()
        if gone:
            index.remove(gone)
            done.removed = sorted(gone)
        for name, why in found.refused.items():
            if name not in known or known[name].refused != why:
                index.put(IndexedFile(name, "", "", 0, why), ())
                done.refused[name] = why
        # short ones first: a long one must not keep them waiting
        for name, state in sorted(found.states.items(), key=lambda each: each[1].size):
            if name not in known or known[name].mark != state.mark:
                self._read(index, name, state, known.get(name), done)
        return done

    def _read(
        self,
        index: KnowledgeIndex,
        name: str,
        state: FileState,
        known: IndexedFile | None,
        done: Refreshed,
    ) -> None:
        """Read one document, unless it holds what it held."""
        is_young = self.now() - state.changed < YOUNG_SECONDS
        mark = "" if is_young else state.mark
        try:
            with opened(state) as file:
                digest = self._digest(file, state)
                if known is not None and digest and known.digest == digest:
                    index.set_mark(name, mark)
                    return
                indexed = IndexedFile(name, mark, digest, state.size)
                document = OpenedDocument(name, file, self.settings.limits, self.clock)
                index.put(indexed, self._chunks(document, state))
                if document.notes:
                    index.set_note(name, "; ".join(document.notes))
            done.read.append(name)
        except DocumentChangedError:
            return  # what is known of it holds until it stands still
        except DocumentError as error:
            why = str(error)
            if known is None or known.refused != why or known.mark != mark:
                index.put(IndexedFile(name, mark, "", state.size, why), ())
            if known is None or known.refused != why:
                done.refused[name] = why

    def _digest(self, file: BufferedReader, state: FileState) -> str:
        """SHA-256 of a file's bytes; empty for one that is too long to be read at all."""
        if state.size > self.settings.limits.max_megabytes * 1_000_000:
            return ""
        digest = files.sha256_of(file)
        file.seek(0)
        return digest

    def _chunks(self, document: OpenedDocument, state: FileState) -> Iterator[Chunk]:
        return chunks_of(read_blocks(document, state.size), self.settings.chunk_tokens)

    def embed(self, embedder: Embedder, most: int | None = None) -> int:
        """Make the vectors that are missing, a few at a time; returns how many were made.

        Raises:
            FactoryError: the embedder failed; what it made before is kept.
        """
        num_made = 0
        with self.opened() as index:
            with self._locked():
                index.require_embedder(embedder.name)
            while most is None or num_made < most:
                missing = index.without_vector(EMBEDDED_AT_ONCE)
                if not missing:
                    break
                vectors = embedder.passages([text for _, text in missing])
                with self._locked():
                    index.add_vectors([digest for digest, _ in missing], vectors)
                num_made += len(missing)
            with self._locked():
                index.remove_unused_vectors()
        return num_made


class _Opened:
    """An index that is closed at the end of a `with` block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> KnowledgeIndex:
        self._index = KnowledgeIndex(self._path)
        return self._index

    def __exit__(self, *_: object) -> None:
        self._index.close()


def _is_damage(error: sqlite3.OperationalError) -> bool:
    return any(words in str(error) for words in ("malformed", "no such table", "disk I/O"))
