"""Answered requests, kept by completion id for as long as somebody may speak of them.

Lines are added by day on a thread of their own: no answer waits for the disk, and private data is
masked before anything is written. Nothing of them goes to the server's log.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import secrets
import threading
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from llama_factory.core import files
from llama_factory.core.errors import FactoryError
from llama_factory.core.records import append_records
from llama_factory.core.types import Example, Message
from llama_factory.data.cleaning.private_data import PrivateData
from llama_factory.inference.question import Question
from llama_factory.serving.outcome import Asked, Outcome
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)

PREFIX = "conversations-"
MAX_CHARACTERS = 60_000
"""Longer conversations are not kept: masking them may take a second and more of others' time."""
MAX_WAITING_CHARACTERS = 16_000_000
"""Text that may wait to be written; where the disk is slower than that, conversations are lost."""
BATCH = 200
"""Most conversations written at once."""
LOCK_SECONDS = 10.0
FIND_SECONDS = 5.0
"""How long feedback waits for the conversation that it speaks of to be written."""
COMPLAIN_SECONDS = 60.0
"""Between two lines in the log about conversations that are lost."""
PLACES = 1 << 32
"""Of a hash: a fraction of all ids is those whose hash is below that fraction of it."""


@dataclass(frozen=True)
class KeptConversation:
    """One answer with what was asked.

    Attributes:
        completion_id: as the client was given it.
        index: which of the request's answers it is.
        when: in UTC, ISO 8601.
        version: that answered.
        key: id of the API key; empty where none is needed.
        user: that the request named, on disk as a hash; empty where it named none.
        row: the turns as they were asked, without passages of documents, which end with the answer.
        citations: passages of documents that the answer was given: file, heading, place, digest of
            what it says, and whether the answer names it.
    """

    completion_id: str
    index: int
    when: str
    version: str
    key: str
    user: str
    row: Example
    citations: tuple[dict[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Unique among conversations."""
        return f"{self.completion_id}/{self.index}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for one line; the name comes first, where the index looks for it."""
        values = {"name": self.name, "completion_id": self.completion_id, "index": self.index}
        values |= {"when": self.when, "version": self.version, "key": self.key}
        values |= {"user": self.user, "row": self.row.to_json()}
        return values | ({"citations": list(self.citations)} if self.citations else {})

    @staticmethod
    def from_json(line: dict[str, Any]) -> "KeptConversation":
        """The inverse of `to_json`."""
        values = {name: value for name, value in line.items() if name != "name"}
        cited = tuple(line.get("citations", ()))
        row = Example.from_json(line["row"])
        return KeptConversation(**values | {"row": row, "citations": cited})


class Conversations:
    """The conversations of the last days, on disk.

    Two servers of one workspace add to the same files, and each finds what the other wrote.
    """

    def __init__(
        self, workspace: Workspace, settings: ServingSettings, private: PrivateData | None = None
    ) -> None:
        """Keep conversations of a workspace.

        Args:
            workspace: whose folder they are kept in.
            settings: for how long, and which of them for good.
            private: what is private and how it is masked; None for all kinds.
        """
        self._folder = workspace.feedback
        self._long_term = workspace.conversations
        self._settings = settings
        self._mask = (private or PrivateData()).mask
        self._index = _Index(self._folder)
        self._changed = threading.Condition()
        self._waiting: list[KeptConversation] = []
        self._num_waiting_characters = 0
        self._num_lost = 0
        self._complained = -COMPLAIN_SECONDS
        self._is_writing = False
        self._is_ended = False
        self._day = ""
        self._thread: threading.Thread | None = None

    @property
    def keeps_any(self) -> bool:
        """Whether anything is kept."""
        return self._settings.feedback_days > 0 or self._settings.log_conversations != "none"

    def keep(self, conversation: KeptConversation) -> None:
        """Note a conversation; it is written soon, on another thread."""
        size = sum(len(turn.content) for turn in conversation.row.messages)
        if not self.keeps_any or size > MAX_CHARACTERS:
            return
        with self._changed:
            is_full = self._num_waiting_characters + size > MAX_WAITING_CHARACTERS
            if is_full or self._is_ended:
                self._num_lost += 1
                return
            self._waiting.append(conversation)
            self._num_waiting_characters += size
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="conversations", daemon=True
                )
                self._thread.start()

    def find(self, completion_id: str, index: int = 0) -> KeptConversation | None:
        """A conversation of the last days; None where none has this id. Reads the disk."""
        if not self._settings.feedback_days:
            return None
        self.flush(FIND_SECONDS)
        line = self._index.find(f"{completion_id}/{index}")
        return None if line is None else KeptConversation.from_json(line)

    def flush(self, seconds: float) -> bool:
        """Wait until all that was noted before is on disk, but not for long."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._is_writing, timeout=seconds
            )

    def close(self, seconds: float = FIND_SECONDS) -> None:
        """Write what waits; later conversations are not kept."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(seconds)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write at the end what waits."""
        try:
            yield
        finally:
            await asyncio.to_thread(self.close)

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._write(batch)
            except (FactoryError, OSError) as error:
                self._complain(f"{len(batch)} conversations are not kept: {error}")
            except Exception as error:  # noqa: BLE001  # its text may hold what was said
                self._complain(f"{len(batch)} conversations are not kept: {type(error).__name__}")
            finally:
                with self._changed:
                    self._is_writing = False
                    self._changed.notify_all()

    def _next(self) -> list[KeptConversation]:
        """What waits, as soon as something does; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_ended)
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            self._is_writing = bool(batch)
            texts = (turn.content for each in batch for turn in each.row.messages)
            self._num_waiting_characters -= sum(map(len, texts))
            lost, self._num_lost = self._num_lost, 0
        if lost:
            self._complain(f"{lost} conversations are not kept: the disk is too slow for them")
        return batch

    def _write(self, batch: list[KeptConversation]) -> None:
        masked = [
            replace(each, row=self._mask(each.row), user=user_hash(self._folder, each.user))
            for each in batch
        ]
        today = datetime.now(UTC).date()
        with files.locked(
            self._folder / ".conversations.lock", what="keeping conversations", seconds=LOCK_SECONDS
        ):
            if self._day != str(today):
                self._remove_old(today)
                self._day = str(today)
            if self._settings.feedback_days:
                lines = (each.to_json() for each in masked)
                append_records(self._folder / f"{PREFIX}{today}.jsonl", lines)
            lines = (each.to_json() for each in masked if self._is_for_good(each))
            append_records(self._long_term / f"{today}.jsonl", lines)

    def _is_for_good(self, conversation: KeptConversation) -> bool:
        if self._settings.log_conversations == "sampled":
            return _place(conversation.completion_id) < self._settings.log_fraction * PLACES
        return self._settings.log_conversations == "all"

    def _remove_old(self, today: date) -> None:
        first = today - timedelta(days=self._settings.feedback_days)
        for path in self._folder.glob(f"{PREFIX}*.jsonl"):
            if path.stem.removeprefix(PREFIX) < str(first):
                path.unlink(missing_ok=True)

    def _complain(self, text: str) -> None:
        now = time.monotonic()
        if now - self._complained >= COMPLAIN_SECONDS:
            self._complained = now
            logger.error("%s", text)


def read_conversations(workspace: Workspace) -> Iterator[KeptConversation]:
    """All conversations on disk, each once, oldest first; broken lines are left out."""
    known: set[str] = set()
    paths = [*workspace.feedback.glob(f"{PREFIX}*.jsonl"), *workspace.conversations.glob("*.jsonl")]
    for path in sorted(paths, key=lambda each: each.stem.removeprefix(PREFIX)):
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                    kept = KeptConversation.from_json(json.loads(line))
                    if kept.name not in known:
                        known.add(kept.name)
                        yield kept


@dataclass(frozen=True)
class ConversationKeeper:
    """Keeps every answer of the gateway; text completions, which are no chat, are not kept."""

    kept: Conversations

    def begun(self, asked: Asked, version_id: str) -> None:
        """See `Observer.begun`."""

    def finished(self, outcome: Outcome) -> None:
        """See `Observer.finished`."""
        prompt, _ = outcome.asked.choices[outcome.index]
        if not isinstance(prompt, Question) or outcome.finish_reason == "failed":
            return
        if outcome.finish_reason == "cancelled" and not outcome.text:
            return
        grounding = outcome.asked.grounding
        asked = prompt.messages if grounding is None else grounding.question.messages
        turns = (*asked, Message("assistant", outcome.text))
        when = datetime.fromtimestamp(outcome.began, UTC).isoformat(timespec="seconds")
        caller = outcome.asked.caller
        self.kept.keep(
            KeptConversation(
                outcome.asked.id,
                outcome.index,
                when,
                outcome.version_id,
                caller.key_id,
                caller.user,
                Example(turns, "", "", 0, tools=prompt.tools),
                () if grounding is None else grounding.record(outcome.text),
            )
        )


def user_hash(folder: Path, user: str) -> str:
    """What is kept of a user's name: the same for the same name, and nothing to guess it by.

    Args:
        folder: holds the secret of the hash, which is made where there is none.
        user: as the request names it; an empty one stays empty.
    """
    if not user:
        return ""
    path = folder / ".secret"
    if not path.exists():
        with files.locked(folder / ".secret.lock", what="making a secret", seconds=LOCK_SECONDS):
            if not path.exists():
                files.write_text(path, secrets.token_hex(32))
    key = bytes.fromhex(path.read_text(encoding="utf-8"))
    digest = hashlib.blake2b(user.encode(errors="surrogatepass"), key=key, digest_size=8)
    return digest.hexdigest()


def _place(text: str) -> int:
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "big")


class _Index:
    """Where each conversation lies: two numbers of 8 bytes each, read on as the files grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._days: dict[Path, _Day] = {}
        self._lock = threading.Lock()

    def find(self, name: str) -> dict[str, Any] | None:
        """The newest line of this name."""
        with self._lock:
            self._read_on()
            days = [self._days[path] for path in sorted(self._days, reverse=True)]
            found = (line for day in days for line in day.lines(name) if line["name"] == name)
            return next(found, None)

    def _read_on(self) -> None:
        paths = set(self._folder.glob(f"{PREFIX}*.jsonl"))
        for path in self._days.keys() - paths:
            del self._days[path]
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # its day is over
                if path.stat().st_size < self._days.setdefault(path, _Day(path)).size:
                    self._days[path] = _Day(path)
                self._days[path].read_on()


class _Day:
    """The lines of one file; `size` bytes of it were read."""

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._hashes, self._starts = array("Q"), array("Q")

    def read_on(self) -> None:
        """Note the lines that were added; one that is not whole yet waits."""
        with self._path.open("rb") as file:
            file.seek(self.size)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                parts = line.split(b'"', 4)
                if len(parts) > 4:
                    self._hashes.append(_hash(parts[3]))
                    self._starts.append(self.size)
                self.size += len(line)

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines whose names have the hash of this one, the last one first."""
        hashes = np.array(self._hashes, np.uint64)
        wanted = np.uint64(_hash(name.encode(errors="surrogatepass")))
        places = np.flatnonzero(hashes == wanted).tolist()
        if not places:
            return
        with self._path.open("rb") as file:
            for place in reversed(places):
                file.seek(self._starts[place])
                yield json.loads(file.readline().decode(errors="surrogatepass"))


def _hash(name: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big")
