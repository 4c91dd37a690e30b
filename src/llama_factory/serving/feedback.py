"""What callers say of answers: stored by day, safe on disk before they are answered, each once."""

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.records import append_records
from llama_factory.core.times import now
from llama_factory.data.cleaning.private_data import PrivateData
from llama_factory.data.sources.feedback import Feedback, Rating
from llama_factory.serving.conversations import Conversations, KeptConversation, user_hash
from llama_factory.serving.errors import KeyReusedError, NotStoredError, UnknownCompletionError
from llama_factory.versions.journal import Journal, JournalEntry
from llama_factory.versions.workspace import Workspace

OTHER_SERVER_SECONDS = 0.3
"""How long an answer that another server of the workspace gives may take to be on disk."""
LOCK_SECONDS = 30.0
"""How long one server waits for the others to store theirs."""


@dataclass(frozen=True)
class Given:
    """What a caller says of an answer.

    Attributes:
        completion_id: of the answer.
        rating: whether it was liked.
        index: which of the request's answers.
        correction: what the answer should have been.
        tags: what is wrong, in a word each.
        comment: the same at length.
        user: who says so behind the key; empty for the user of the request.
    """

    completion_id: str
    rating: Rating
    index: int = 0
    correction: str = ""
    tags: tuple[str, ...] = ()
    comment: str = ""
    user: str = ""


@dataclass(frozen=True)
class Stored:
    """Feedback that is safe on disk, as far as a server remembers it.

    Attributes:
        id: of the feedback.
        about: the answer that it is about, with its index, and the caller: key and user.
        rating: whether the answer was liked.
        version: that gave it.
        when: in UTC, ISO 8601.
        replaces: id of the earlier feedback of the same caller; empty where there was none.
        content: hash of all that was said.
        is_new: whether this request stored it, and not an earlier one that was the same.
    """

    id: str
    about: tuple[str, int, str, str]
    rating: Rating
    version: str
    when: str
    replaces: str
    content: str
    is_new: bool = False

    @staticmethod
    def of(feedback: Feedback) -> "Stored":
        """What is remembered of feedback."""
        said = [feedback.rating, feedback.correction, feedback.tags, feedback.comment]
        return Stored(
            feedback.id,
            (feedback.completion_id, feedback.index, *feedback.caller),
            feedback.rating,
            feedback.version,
            feedback.when,
            feedback.replaces,
            _digest(said),
        )

    @property
    def completion_id(self) -> str:
        """Of the answer."""
        return self.about[0]

    def to_json(self) -> dict[str, Any]:
        """What the client is answered: the same for the same request."""
        return {
            "id": self.id,
            "object": "feedback",
            "created": int(datetime.fromisoformat(self.when).timestamp()),
            "completion_id": self.completion_id,
            "rating": self.rating,
            "version": self.version,
            "replaces": self.replaces or None,
        }


class FeedbackStore:
    """The feedback of a workspace; several servers may add to it."""

    def __init__(
        self,
        workspace: Workspace,
        conversations: Conversations,
        private: PrivateData | None = None,
    ) -> None:
        """Store feedback beside the conversations that it speaks of.

        Args:
            workspace: whose folder it is kept in.
            conversations: finds what was answered.
            private: what is private and how it is masked; None for all kinds.
        """
        self._folder = workspace.feedback
        self._journal = Journal(workspace.journal)
        self._conversations = conversations
        self._masked = (private or PrivateData()).mask_text
        self._known = _Known(self._folder)
        self._lock = threading.Lock()

    def give(self, given: Given, key_id: str, idempotency_key: str = "") -> Stored:
        """Store feedback; the same of the same caller is stored once. Waits for the disk.

        Args:
            given: what is said, checked.
            key_id: of the API key that it came with.
            idempotency_key: names the request, so that it may be sent again.

        Raises:
            UnknownCompletionError: there is no such answer, or it is too long ago.
            KeyReusedError: another body came with this idempotency key.
            NotStoredError: the disk is full or may not be written to; nothing was stored.
        """
        request = _Request.of(given, key_id, idempotency_key)
        answered = self._find(given)
        try:
            with (
                self._lock,
                files.locked(
                    self._folder / ".feedback.lock", what="storing feedback", seconds=LOCK_SECONDS
                ),
            ):
                self._known.read_on()
                stored = self._give(given, key_id, request, answered)
        except (VersionError, OSError) as error:
            why = getattr(error, "strerror", None) or "the disk is full, or another server is busy"
            raise NotStoredError(
                f"the feedback could not be stored ({why}). Nothing of it was kept: send it again "
                "later."
            ) from error
        self._note(stored)
        return stored

    def _note(self, stored: "Stored") -> None:
        """Write it into the journal too; what keeps that from being done loses no feedback."""
        data = {"id": stored.id, "rating": stored.rating, "text": f"thumb {stored.rating}"}
        key = f"feedback:{stored.id}"
        entry = JournalEntry("feedback", "server", stored.version, data, key, stored.when)
        with contextlib.suppress(VersionError, sqlite3.Error):
            self._journal.add(entry)

    def _find(self, given: Given) -> KeptConversation | None:
        """The answer that is meant; another server may have given it just now."""
        answered = self._conversations.find(given.completion_id, given.index)
        if answered is None:
            time.sleep(OTHER_SERVER_SECONDS)
            answered = self._conversations.find(given.completion_id, given.index)
        return answered

    def _give(
        self, given: Given, key_id: str, request: "_Request", answered: KeptConversation | None
    ) -> Stored:
        if earlier := self._known.sent(request):
            return earlier
        if answered is None:
            raise UnknownCompletionError(
                f"completion_id: no answer {given.completion_id!r} (index {given.index}) is kept. "
                "Answers are kept for `serving.feedback_days` days, those of very long "
                "conversations not at all."
            )
        feedback = self._feedback(given, key_id, answered)
        before = self._known.latest(Stored.of(feedback))
        if before is not None:
            if before.content == Stored.of(feedback).content:
                return before
            feedback = replace(feedback, replaces=before.id)
        day = feedback.when[:10]
        line = feedback.to_json() | {"request": request.to_json()}
        append_records(self._folder / f"feedback-{day}.jsonl", [line])
        return replace(Stored.of(feedback), is_new=True)

    def _feedback(self, given: Given, key_id: str, answered: KeptConversation) -> Feedback:
        user = user_hash(self._folder, given.user) or answered.user
        return Feedback(
            id=uuid.uuid4().hex,
            completion_id=given.completion_id,
            rating=given.rating,
            when=now(),
            version=answered.version,
            row=answered.row,
            key=key_id,
            user=user,
            correction=self._masked(given.correction),
            tags=tuple(map(self._masked, given.tags)),
            comment=self._masked(given.comment),
            index=given.index,
        )


@dataclass(frozen=True)
class _Request:
    """A request as it is known again: hashes of its idempotency key and of its body."""

    key: str
    body: str

    @staticmethod
    def of(given: Given, key_id: str, idempotency_key: str) -> "_Request":
        body = _digest([*vars(given).values()])
        return _Request(_digest([key_id, idempotency_key]) if idempotency_key else "", body)

    def to_json(self) -> Mapping[str, str]:
        return {"key": self.key, "body": self.body} if self.key else {}


class _Known:
    """What was stored before, by whoever: read on as the files grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clear()

    def _clear(self) -> None:
        self._sizes: dict[Path, int] = {}
        self._sent: dict[str, tuple[str, Stored]] = {}
        self._latest: dict[tuple[str, int, str, str], Stored] = {}

    def read_on(self) -> None:
        """Read the lines that were added since; the caller holds the lock of the files."""
        paths = sorted(self._folder.glob("feedback-*.jsonl"))
        if any(path.stat().st_size < self._sizes.get(path, 0) for path in paths):
            self._clear()
        for path in paths:
            with path.open("rb") as file:
                file.seek(self._sizes.get(path, 0))
                for line in file:
                    self._note(line)
                self._sizes[path] = file.tell()

    def sent(self, request: _Request) -> Stored | None:
        """What the same request came to before.

        Raises:
            KeyReusedError: another one came with its key.
        """
        body, stored = self._sent.get(request.key, ("", None))
        if stored is not None and body != request.body:
            raise KeyReusedError(
                "Idempotency-Key: this key came with another body before. Send a new key with a "
                "new body."
            )
        return stored

    def latest(self, stored: Stored) -> Stored | None:
        """The last feedback of the same caller on the same answer."""
        return self._latest.get(stored.about)

    def _note(self, line: bytes) -> None:
        try:
            values = json.loads(line)
            stored = Stored.of(Feedback.from_json(values))
            request = values.get("request") or {}
        except (AttributeError, KeyError, TypeError, ValueError):
            return  # reported where feedback is read for a round
        self._latest[stored.about] = stored
        if request:
            self._sent[request["key"]] = request["body"], stored


def _digest(parts: list[Any]) -> str:
    text = json.dumps(parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
