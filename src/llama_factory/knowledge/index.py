"""The index of all passages: one SQLite file with their words, their places and their vectors.

It may be deleted at any time and is made again from the documents. Each document is written in one
transaction, so a kill leaves it as it was before or whole.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_factory.core.databases import use_write_ahead_log
from llama_factory.knowledge.chunks import Chunk
from llama_factory.text.words import search_words

SCHEMA = "1"
"""Raised where tables, or how words are cut, change: an older index is made again."""
BUSY_SECONDS = 30.0
VECTOR_TYPE = np.float16

_TABLES = """
CREATE TABLE facts(name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE files(
  id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, mark TEXT NOT NULL, digest TEXT NOT NULL,
  bytes INTEGER NOT NULL, refused TEXT NOT NULL, note TEXT NOT NULL);
CREATE TABLE chunks(
  id INTEGER PRIMARY KEY, file INTEGER NOT NULL, heading TEXT NOT NULL, text TEXT NOT NULL,
  line INTEGER NOT NULL, page INTEGER NOT NULL, digest BLOB NOT NULL);
CREATE INDEX chunks_of_file ON chunks(file);
CREATE INDEX chunks_of_digest ON chunks(digest);
CREATE TABLE vectors(digest BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(
  title, body, tokenize = "unicode61 remove_diacritics 2");
CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, row);
"""


@dataclass(frozen=True)
class IndexedFile:
    """A document as the index knows it.

    Attributes:
        name: as people are shown it.
        mark: its state when it was read; see `FileState`. Empty where it must be looked at again.
        digest: SHA-256 of its bytes; empty where it was refused unread.
        num_bytes: its size.
        refused: why it is left out; empty where it is not.
        note: what was left out of it.
        num_chunks: its passages.
    """

    name: str
    mark: str
    digest: str
    num_bytes: int
    refused: str = ""
    note: str = ""
    num_chunks: int = 0


@dataclass(frozen=True)
class IndexedChunk:
    """A passage in the index, with the words by which it is found."""

    id: int
    file: str
    heading: str
    text: str
    line: int
    page: int
    digest: bytes


def chunk_digest(heading: str, text: str) -> bytes:
    """What a passage's vector is kept by: equal passages share one."""
    data = f"{len(heading)}:{heading}{text}".encode(errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()


def title_of(file: str, headings: Sequence[str]) -> str:
    """What a passage is about beside its own words: its file and the headings above it."""
    stem = file.rsplit(".", 1)[0]
    return " > ".join([stem.replace("/", " > "), *headings])


class KnowledgeIndex:
    """An open index. One thread at a time; several processes may read, one writes."""

    def __init__(self, path: Path) -> None:
        """Open the index, or make an empty one.

        Raises:
            sqlite3.DatabaseError: it is damaged, or of another version of this program.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._db = sqlite3.connect(
            path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        use_write_ahead_log(self._db, seconds=BUSY_SECONDS)
        self._db.execute("PRAGMA synchronous = NORMAL")
        if not self._schema():
            with self.writing():
                if not self._schema():  # another process was faster
                    for statement in _TABLES.split(";\n"):
                        self._db.execute(statement)
                    self._note("schema", SCHEMA)
        if (found := self._schema()) != SCHEMA:
            raise sqlite3.DatabaseError(f"of another program's version, {found}")

    def _schema(self) -> str:
        tables = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'facts'").fetchone()
        return self.fact("schema") if tables else ""

    def close(self) -> None:
        """Close it; what was written is safe."""
        self._db.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction: all that is written in it, or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """What is read in it is of one moment, whatever is written meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def fact(self, name: str) -> str:
        """A note about the whole index; empty where there is none."""
        found = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(found[0]) if found else ""

    def _note(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))

    def change(self) -> str:
        """Another text whenever passages or vectors have changed."""
        return f"{self.fact('change')} {self.fact('vectors')}"

    def _changed(self) -> None:
        self._note("change", str(int(self.fact("change") or 0) + 1))

    def require_settings(self, settings: str) -> bool:
        """Forget all documents where passages were made with other settings; whether they were."""
        if self.fact("settings") == settings:
            return False
        with self.writing():
            for table in ("files", "chunks", "words"):
                self._db.execute(f"DELETE FROM {table}")
            self._note("settings", settings)
            self._changed()
        return True

    def files(self) -> dict[str, IndexedFile]:
        """All documents by name."""
        rows = self._db.execute(
            "SELECT name, mark, digest, bytes, refused, note, "
            "(SELECT count(*) FROM chunks WHERE chunks.file = files.id) FROM files ORDER BY name"
        )
        return {row[0]: IndexedFile(*row) for row in rows}

    def marks(self) -> dict[str, str]:
        """The states in which documents were read, by name."""
        return dict(self._db.execute("SELECT name, mark FROM files"))

    def put(self, file: IndexedFile, chunks: Iterable[Chunk]) -> int:
        """Write a document in place of what was known of it; returns how many passages it has.

        What `chunks` raises leaves the index as it was.
        """
        with self.writing():
            self._remove(file.name)
            cursor = self._db.execute(
                "INSERT INTO files(name, mark, digest, bytes, refused, note) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (file.name, file.mark, file.digest, file.num_bytes, file.refused, file.note),
            )
            assert cursor.lastrowid is not None
            num_chunks = 0
            for chunk in chunks:
                self._add(cursor.lastrowid, file.name, chunk)
                num_chunks += 1
            self._changed()
        return num_chunks

    def _add(self, file_id: int, name: str, chunk: Chunk) -> None:
        digest = chunk_digest(f"{name}\n{chunk.heading}", chunk.text)
        cursor = self._db.execute(
            "INSERT INTO chunks(file, heading, text, line, page, digest) VALUES (?, ?, ?, ?, ?, ?)",
            (file_id, chunk.heading, _storable(chunk.text), chunk.line, chunk.page, digest),
        )
        title = " ".join(search_words(title_of(name, chunk.headings)))
        body = " ".join(search_words(chunk.text))
        self._db.execute(
            "INSERT INTO words(rowid, title, body) VALUES (?, ?, ?)",
            (cursor.lastrowid, title, body),
        )

    def set_mark(self, name: str, mark: str) -> None:
        """A document was looked at again and holds the same."""
        self._db.execute("UPDATE files SET mark = ? WHERE name = ?", (mark, name))

    def set_note(self, name: str, note: str) -> None:
        """What was left out of a document."""
        self._db.execute("UPDATE files SET note = ? WHERE name = ?", (note, name))

    def remove(self, names: Iterable[str]) -> None:
        """Forget documents."""
        with self.writing():
            for name in names:
                self._remove(name)
            self._changed()

    def _remove(self, name: str) -> None:
        found = self._db.execute("SELECT id FROM files WHERE name = ?", (name,)).fetchone()
        if found is None:
            return
        self._db.execute(
            "DELETE FROM words WHERE rowid IN (SELECT id FROM chunks WHERE file = ?)", found
        )
        self._db.execute("DELETE FROM chunks WHERE file = ?", found)
        self._db.execute("DELETE FROM files WHERE id = ?", found)

    def num_chunks(self) -> int:
        """All passages."""
        return int(self._db.execute("SELECT count(*) FROM chunks").fetchone()[0])

    def chunks(self, ids: Sequence[int]) -> list[IndexedChunk]:
        """Passages by id, in that order; those that are gone are left out."""
        marks = ", ".join("?" * len(ids))
        rows = self._db.execute(
            "SELECT chunks.id, files.name, heading, text, line, page, chunks.digest FROM chunks "
            f"JOIN files ON files.id = chunks.file WHERE chunks.id IN ({marks})",
            list(ids),
        )
        found = {row[0]: IndexedChunk(*row) for row in rows}
        return [found[each] for each in ids if each in found]

    def passage_text(self, digest: bytes) -> str | None:
        """What a passage says; None where its document no longer says it."""
        row = self._db.execute("SELECT text FROM chunks WHERE digest = ?", (digest,)).fetchone()
        return str(row[0]) if row else None

    def frequencies(self, words: Iterable[str]) -> dict[str, int]:
        """In how many passages each word occurs, in the title or the body."""
        counts = {}
        for word in words:
            row = self._db.execute("SELECT doc FROM vocabulary WHERE term = ?", (word,)).fetchone()
            counts[word] = int(row[0]) if row else 0
        return counts

    def holding(
        self, words: Sequence[str], title_weight: float, most: int
    ) -> list[tuple[int, str, str]]:
        """Passages with any of the words, the likeliest first: id, words of title and of body."""
        if not words:
            return []
        query = " OR ".join(f'"{word}"' for word in words)
        rows = self._db.execute(
            "SELECT rowid, title, body FROM words WHERE words MATCH ? "
            "ORDER BY bm25(words, ?, 1.0), rowid LIMIT ?",
            (query, title_weight, most),
        )
        return rows.fetchall()

    def require_embedder(self, name: str) -> None:
        """Forget vectors of another model."""
        if self.fact("embedder") != name:
            with self.writing():
                self._db.execute("DELETE FROM vectors")
                self._note("embedder", name)
                self._note("vectors", str(int(self.fact("vectors") or 0) + 1))

    def without_vector(self, most: int) -> list[tuple[bytes, str]]:
        """Digests of passages that have no vector yet, with what it is made of."""
        rows = self._db.execute(
            "SELECT chunks.digest, files.name, heading, text FROM chunks "
            "JOIN files ON files.id = chunks.file WHERE NOT EXISTS "
            "(SELECT 1 FROM vectors WHERE vectors.digest = chunks.digest) LIMIT ?",
            (most,),
        )
        found = {
            row[0]: f"{title_of(row[1], [row[2]] if row[2] else [])}\n{row[3]}" for row in rows
        }
        return list(found.items())

    def add_vectors(self, digests: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        """Write vectors of passages."""
        values = [row.tobytes() for row in vectors.astype(VECTOR_TYPE)]
        with self.writing():
            self._db.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?)", zip(digests, values, strict=True)
            )
            self._note("vectors", str(int(self.fact("vectors") or 0) + 1))

    def remove_unused_vectors(self) -> None:
        """Forget vectors of passages that are gone."""
        unused = "NOT EXISTS (SELECT 1 FROM chunks WHERE chunks.digest = vectors.digest)"
        if self._db.execute(f"SELECT 1 FROM vectors WHERE {unused} LIMIT 1").fetchone():
            self._db.execute(f"DELETE FROM vectors WHERE {unused}")

    def matrix(self) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Ids of passages, and their vectors: [passages, dimensions]."""
        rows = self._db.execute(
            "SELECT chunks.id, vectors.value FROM chunks JOIN vectors USING (digest)"
        ).fetchall()
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        values = np.frombuffer(b"".join(row[1] for row in rows), dtype=VECTOR_TYPE)
        return ids, values.reshape(len(rows), -1) if rows else values.reshape(0, 0)


def _storable(text: str) -> str:
    """Half characters, which SQLite does not take, as question marks."""
    return text.encode(errors="replace").decode()


def delete_index(path: Path) -> None:
    """Remove a damaged index; it is made again from the documents."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
