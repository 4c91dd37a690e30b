"""The journal of a workspace: what happened, in order, and messages about it that wait to be sent.

SQLite, one row a step, each on disk before the next begins. It explains; it decides nothing:
`releases.json` alone says what is released, and `journal_facts.py` adds what it says and the
journal lacks.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any, Literal

from llama_factory.core.databases import use_write_ahead_log
from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.sentences import keep_kinds, restore_kinds
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.core.types import BASE_VERSION
from llama_factory.versions import releases

DAMAGED = kind(
    "problem.journal_damaged",
    "{path} is damaged ({error}). Move it away: releases stay as they are, and the "
    "journal begins anew with what releases.json knows of them.",
)
READ_ONLY = kind(
    "problem.journal_read_only",
    "{path} cannot be written to ({error}). Make the folder writable, or work on a copy elsewhere.",
)

Who = Literal["watcher", "person", "server", "canary"]
What = Literal[
    "file seen",
    "round begun",
    "round ended",
    "round failed",
    "parked",
    "unparked",
    "paused",
    "resumed",
    "verdict",
    "released",
    "held",
    "rollback",
    "canary",
    "feedback",
    "decision",
    "consolidation begun",
    "consolidated",
    "consolidation failed",
    "row forgotten",
    "row remembered",
    "gc",
    "alert",
]
SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, time TEXT NOT NULL,
    who TEXT NOT NULL, what TEXT NOT NULL, version TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_what ON events (what, number);
CREATE TABLE IF NOT EXISTS messages (
    key TEXT NOT NULL, receiver TEXT NOT NULL, number INTEGER NOT NULL, tries INTEGER NOT NULL,
    due TEXT NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL, PRIMARY KEY (key, receiver));
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
SELECT = "SELECT number, time, who, what, version, data FROM events WHERE"
BUSY_SECONDS = 10.0


@dataclass(frozen=True)
class JournalEntry:
    """Something that happened, to be written down.

    Attributes:
        what: happened.
        who: did it.
        version: that it is about; empty for none.
        data: more about it, as plain values.
        key: writing the same key twice changes nothing; None where it may happen again.
        time: UTC, ISO 8601; empty for now.
    """

    what: What
    who: Who
    version: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    key: str | None = None
    time: str = ""


@dataclass(frozen=True)
class Event:
    """Something that happened, as the journal has it.

    Attributes:
        number: its place in the journal; later ones have higher numbers.
        time: UTC, ISO 8601.
        who: did it.
        what: happened.
        version: that it is about; empty for none.
        data: more about it.
    """

    number: int
    time: str
    who: str
    what: str
    version: str
    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Journal:
    """The journal of one workspace. Any number of processes may write to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entries: Iterable[JournalEntry]) -> list[int]:
        """Write entries in one step, all or none.

        Returns:
            The numbers of those that are new.

        Raises:
            VersionError: the file is damaged or may not be written to.
            sqlite3.OperationalError: the disk is full; nothing was written.
        """
        listed = list(entries)
        if not listed:
            return []
        with self.opened() as database:
            return [number for each in listed if (number := _insert(database, each))]

    def add(self, entry: JournalEntry) -> int | None:
        """Write one entry; its number, or None where its key is known."""
        return next(iter(self.append([entry])), None)

    def events(
        self, *, after: int = 0, what: Sequence[str] = (), last: int | None = None
    ) -> list[Event]:
        """Events in order.

        Args:
            after: only those with a higher number.
            what: only these kinds; none: all.
            last: only so many, the newest.

        Raises:
            VersionError: the file is damaged.
        """
        if not self.path.exists():
            return []
        kinds = f" AND what IN ({', '.join('?' * len(what))})" if what else ""
        query = f"{SELECT} number > ?{kinds}"
        values = [after, *what, -1 if last is None else last]
        with self.opened(is_writing=False) as database:
            rows = database.execute(f"{query} ORDER BY number DESC LIMIT ?", values).fetchall()
        return [_event(row) for row in reversed(rows)]

    def event(self, number: int) -> Event:
        """The event with a number.

        Raises:
            VersionError: there is none.
        """
        with self.opened(is_writing=False) as database:
            row = database.execute(f"{SELECT} number = ?", [number]).fetchone()
        if row is None:
            raise VersionError(f"{self.path}: there is no event {number}.")
        return _event(row)

    def known(self, keys: Iterable[str]) -> set[str]:
        """Which of these keys are in the journal."""
        if not self.path.exists():
            return set()
        with self.opened(is_writing=False) as database:
            find = "SELECT key FROM events WHERE key = ?"
            return {key for key in keys if database.execute(find, [key]).fetchone()}

    def times_of(self, keys: Iterable[str]) -> list[str]:
        """When the events with these keys happened; those that never did are left out."""
        if not self.path.exists():
            return []
        find = "SELECT time FROM events WHERE key = ?"
        with self.opened(is_writing=False) as database:
            rows = [database.execute(find, [key]).fetchone() for key in keys]
        return [row[0] for row in rows if row]

    @contextmanager
    def opened(self, *, is_writing: bool = True) -> Iterator[sqlite3.Connection]:
        """The database in one transaction, which is undone where it fails.

        Args:
            is_writing: nobody else may write meanwhile.
        """
        try:
            database = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                yield from _in_transaction(database, "IMMEDIATE" if is_writing else "DEFERRED")
            finally:
                database.close()
        except sqlite3.DatabaseError as error:
            self._explain(error)
            raise

    def _explain(self, error: sqlite3.DatabaseError) -> None:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
            raise VersionError(DAMAGED(path=self.path, error=error)) from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
            raise VersionError(READ_ONLY(path=self.path, error=error)) from error


def _in_transaction(database: sqlite3.Connection, kind: str) -> Iterator[sqlite3.Connection]:
    database.execute("PRAGMA synchronous=FULL")
    if database.execute("PRAGMA user_version").fetchone()[0] < 1:
        use_write_ahead_log(database, seconds=BUSY_SECONDS)
        database.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version=1; COMMIT;")
    database.execute(f"BEGIN {kind}")
    try:
        yield database
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _event(row: tuple[int, str, str, str, str, str]) -> Event:
    number, at, who, what, version, data = row
    return Event(number, at, who, what, version, restore_kinds(json.loads(data)))


def _insert(database: sqlite3.Connection, entry: JournalEntry) -> int | None:
    known = "SELECT 1 FROM events WHERE key = ?"
    if entry.key is not None and database.execute(known, [entry.key]).fetchone():
        return None  # an insertion that is ignored would leave a gap in the numbers
    done = database.execute(
        "INSERT INTO events (key, time, who, what, version, data) VALUES (?, ?, ?, ?, ?, ?)",
        [
            entry.key,
            entry.time or now(),
            entry.who,
            entry.what,
            entry.version,
            json.dumps(keep_kinds(entry.data)),
        ],
    )
    return done.lastrowid


def events(
    path: Path, *, after: int = 0, what: Sequence[str] = (), last: int | None = None
) -> list[Event]:
    """The events of a journal file, as `Journal.events` gives them."""
    return Journal(path).events(after=after, what=what, last=last)


def production_at(listed: Iterable[Event], at: str) -> tuple[str, Event | None]:
    """Which version answered users at a time.

    Args:
        listed: events in order, releases among them.
        at: UTC, ISO 8601 to the second.

    Returns:
        Its id, and the event that released it; the base model and None before the first one.
    """
    moves = [each for each in listed if "aliases" in each.data and each.time <= at]
    moves = [each for each in moves if each.what in ("released", "rollback")]
    if not moves:
        return BASE_VERSION, None
    return moves[-1].data["aliases"][releases.PRODUCTION], moves[-1]


def read_time(written: str, now: datetime) -> str:
    """A time as the journal has it.

    Args:
        written: `14:05`, or a date and a time in ISO 8601; without a zone it is that of `now`.
        now: whose day is meant by a time alone.

    Raises:
        ConfigError: it is no time.
    """
    try:
        if len(written) <= len("14:05:00") and "-" not in written:
            moment = datetime.combine(now.date(), time.fromisoformat(written), now.tzinfo)
        else:
            moment = datetime.fromisoformat(written)
    except ValueError:
        raise ConfigError(
            f"'{written}' is no time. Give one of today as 14:05, or 2026-11-30T14:05."
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=now.tzinfo)
    return moment.astimezone(UTC).isoformat(timespec="seconds")
