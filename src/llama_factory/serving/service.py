"""What the routes do: names to versions, requests to the queue, releases as they change."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from llama_factory.serving.answering import AnswerQueue, PendingAnswer
from llama_factory.serving.released import ReleasedVersions
from llama_factory.serving.settings import ServingSettings
from llama_factory.serving.shapes import ChatRequest
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatService:
    """A workspace's versions, ready to answer."""

    workspace: Workspace
    settings: ServingSettings
    queue: AnswerQueue
    released: ReleasedVersions

    def ask(self, request: ChatRequest) -> PendingAnswer:
        """Queue a request; the version that its model's name means when its turn comes answers it.

        Raises:
            RequestError: the model is unknown or an option is not supported.
            QueueFullError: too many requests wait.
        """
        self.released.version_named(request.model)
        question, options = request.question(), request.options(self.settings.max_tokens)
        return self.queue.submit(request.model, self.released.version_named, question, options)

    def health(self) -> dict[str, Any]:
        """The version that answers, the one that should, and how many requests wait."""
        answers, released = self.released.production, self.released.released
        waiting = self.queue.num_waiting
        return {"status": "ok", "version": answers, "released": released, "queue": waiting}

    def models(self) -> list[dict[str, Any]]:
        """A `model` object for every alias and every version."""
        owner = self.workspace.folder.name
        names = {name: target for name, target in self.released.names().items() if name != owner}
        return [self._model(name, version_id) for name, version_id in names.items()]

    def model(self, name: str) -> dict[str, Any]:
        """The `model` object of one name.

        Raises:
            UnknownModelError: there is none.
        """
        return self._model(name, self.released.version_named(name))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the releases meanwhile; give up what is unfinished at the end."""
        watching = self.released.follow(self.queue, poll_seconds=self.settings.poll_seconds)
        watcher = asyncio.create_task(watching)
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.to_thread(self.queue.end)

    def _model(self, name: str, version_id: str) -> dict[str, Any]:
        folder = self.workspace.versions / version_id
        # A version whose folder was removed by hand may still be loaded, and answer.
        created = int(folder.stat().st_mtime) if folder.exists() else 0
        owner = self.workspace.folder.name
        head = {"id": name, "object": "model", "created": created, "owned_by": owner}
        return head | {"root": version_id}
