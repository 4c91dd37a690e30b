"""What the routes do: names to versions, requests to the queue, releases as they change."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from llama_factory.core.errors import suggest
from llama_factory.serving.answering import AnswerQueue, PendingAnswer
from llama_factory.serving.refusals import UnknownModelError
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
        """Queue a request; the version that its model's name means now will answer it.

        Raises:
            RequestError: the model is unknown or an option is not supported.
            QueueFullError: too many requests wait.
        """
        version_id = self._version_named(request.model)
        options = request.options(self.settings.max_tokens)
        return self.queue.submit(version_id, request.question(), options)

    def health(self) -> dict[str, Any]:
        """The released version and how many requests wait."""
        waiting = self.queue.num_waiting
        return {"status": "ok", "version": self.released.production, "queue": waiting}

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
        return self._model(name, self._version_named(name))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the releases meanwhile; give up what is unfinished at the end."""
        watcher = asyncio.create_task(self._watch_releases())
        try:
            yield
        finally:
            watcher.cancel()
            await self.queue.close()

    def _version_named(self, name: str) -> str:
        names = self.released.names()
        if name not in names:
            raise UnknownModelError(
                f"model: there is no '{name}' here.{suggest(name, names)} "
                f"There are: {', '.join(names)}."
            )
        return names[name]

    def _model(self, name: str, version_id: str) -> dict[str, Any]:
        folder = self.workspace.versions / version_id
        # A version whose folder was removed by hand may still be loaded, and answer.
        created = int(folder.stat().st_mtime) if folder.exists() else 0
        owner = self.workspace.folder.name
        head = {"id": name, "object": "model", "created": created, "owned_by": owner}
        return head | {"root": version_id}

    async def _watch_releases(self) -> None:
        while True:
            await asyncio.sleep(self.settings.poll_seconds)
            try:
                await self.released.refresh(self.queue.prepare)
                await self.queue.unload_all_but(set(self.released.aliases.values()))
            except Exception:
                # The watcher must outlive a bad moment of the disk, or no release arrives again.
                logger.exception("looking for a new release failed; the next look is due")
