"""Messages to receivers: written down once for each, sent until taken, none waits for another."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from llama_factory.core.durations import show_roughly
from llama_factory.rounds.notify import NotDeliveredError, Receiver
from llama_factory.versions.journal import Journal, JournalEntry
from llama_factory.versions.workspace import Workspace

FIRST_WAIT = timedelta(seconds=30)
LONGEST_WAIT = timedelta(hours=1)
MAX_TRIES = 12
"""After which a message is given up, with an alert: about eight hours."""


@dataclass(frozen=True)
class _Message:
    key: str
    number: int
    tries: int


class Outbox:
    """The messages of a workspace that wait to be sent. A thread for each receiver."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._journal = Journal(workspace.journal)
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="notify")
        self._running: dict[str, Future[None]] = {}

    def collect(self, receivers: Sequence[Receiver], now: datetime) -> int:
        """Write down a message for each new event and receiver; events before its first look count
        for no receiver.

        Returns:
            How many are new.
        """
        fresh = 0
        for receiver in receivers:
            with self._journal.opened() as database:
                newest = database.execute("SELECT MAX(number) FROM events").fetchone()[0] or 0
                mark = f"sent to {receiver.name}"
                row = database.execute("SELECT value FROM marks WHERE name = ?", [mark]).fetchone()
                kinds = ", ".join("?" * len(receiver.events))
                added = database.execute(
                    "INSERT OR IGNORE INTO messages SELECT 'event-' || number, ?, number, 0, ?, "
                    f"'waiting', '' FROM events WHERE number > ? AND what IN ({kinds}) "
                    "AND json_extract(data, '$.receiver') IS NOT ?",
                    [
                        receiver.name,
                        _iso(now),
                        int(row[0]) if row else newest,
                        *receiver.events,
                        receiver.name,
                    ],
                )
                fresh += added.rowcount
                database.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", [mark, str(newest)])
        return fresh

    def send_due(self, receivers: Sequence[Receiver], now: datetime) -> None:
        """Begin to send what is due, each receiver in a thread of its own."""
        for receiver in receivers:
            running = self._running.get(receiver.name)
            if running is None or running.done():
                if running is not None:
                    running.result()
                self._running[receiver.name] = self._pool.submit(self.send_to, receiver, now)

    def finish(self) -> None:
        """Wait until what is being sent is sent."""
        for running in self._running.values():
            running.result()
        self._running.clear()

    def close(self) -> None:
        """Send nothing more."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def send_to(self, receiver: Receiver, now: datetime) -> None:
        """Send one receiver what is due, in order; the rest waits where it does not take one."""
        for message in self._due(receiver, now):
            try:
                receiver.send(message.key, self._content(message.number), self._workspace.folder)
            except NotDeliveredError as error:
                self._failed(receiver, message, str(error), now)
                return
            self._mark(receiver, message, "sent", "", now)

    def _due(self, receiver: Receiver, now: datetime) -> list[_Message]:
        with self._journal.opened(is_writing=False) as database:
            rows = database.execute(
                "SELECT key, number, tries, due FROM messages WHERE receiver = ? AND state = "
                "'waiting' ORDER BY number",
                [receiver.name],
            ).fetchall()
        # The first one waits for its next try, and the others for it; what a clock that was set
        # back would have wait for longer than any does not.
        if rows and _iso(now) < rows[0][3] <= _iso(now + LONGEST_WAIT):
            return []
        return [_Message(*row[:3]) for row in rows]

    def _content(self, number: int) -> dict[str, Any]:
        event = self._journal.event(number).to_json()
        return {"workspace": self._workspace.folder.name, "event": event}

    def _failed(self, receiver: Receiver, message: _Message, why: str, now: datetime) -> None:
        tries = message.tries + 1
        if tries < MAX_TRIES:
            wait = min(FIRST_WAIT * 2 ** (tries - 1), LONGEST_WAIT)
            self._mark(receiver, message, "waiting", why, now + wait)
            return
        self._mark(receiver, message, "given up", why, now)
        text = f"a message was given up after {show_roughly(_total_wait())}: {why}"
        data = {"text": text, "receiver": receiver.name, "message": message.key}
        key = f"given up:{message.key}:{receiver.name}"
        self._journal.add(JournalEntry("alert", "watcher", data=data, key=key))

    def _mark(
        self, receiver: Receiver, message: _Message, state: str, why: str, due: datetime
    ) -> None:
        with self._journal.opened() as database:
            database.execute(
                "UPDATE messages SET state = ?, error = ?, tries = ?, due = ? "
                "WHERE key = ? AND receiver = ?",
                [state, why, message.tries + 1, _iso(due), message.key, receiver.name],
            )


def _total_wait() -> timedelta:
    waits = (min(FIRST_WAIT * 2**number, LONGEST_WAIT) for number in range(MAX_TRIES - 1))
    return sum(waits, timedelta())


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
