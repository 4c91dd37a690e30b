"""The way of a request: its turn, its version, its answers, and who is told of them. No HTTP."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from llama_factory.serving.admission import Admission
from llama_factory.serving.answering import Answering, Event
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.errors import EngineDownError
from llama_factory.serving.loaded import LoadedVersions
from llama_factory.serving.metrics import Metrics
from llama_factory.serving.outcome import Asked, Caller, Observer
from llama_factory.serving.released import ReleasedVersions
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)

ChooseVersion = Callable[[str, Caller], str]
"""The version that a name means to a caller whose answer begins now."""


class Gateway:
    """A workspace's versions, ready to answer.

    Attributes:
        workspace: whose versions answer.
        settings: limits.
        engine: makes the tokens.
        admission: whose turn it is.
        versions: what is loaded.
        released: what names mean.
        choose_version: called when an answer begins; a canary router takes its place.
        metrics: what is counted and measured.
        observers: are given every answer.
    """

    def __init__(
        self, workspace: Workspace, settings: ServingSettings, engine: AnswerEngine
    ) -> None:
        self.workspace = workspace
        self.settings = settings
        self.engine = engine
        self.admission = Admission(
            settings.max_running, settings.max_queue, settings.max_queue_per_key
        )
        self.versions = LoadedVersions(workspace, engine, settings.max_versions)
        self.released = ReleasedVersions(
            workspace, self.versions, name=settings.model_name, takes_any=settings.any_model
        )
        self.choose_version: ChooseVersion = lambda name, _: self.released.version_named(name)
        self.metrics = Metrics()
        self.observers: list[Observer] = [self.metrics]
        self._answering: set[Answering] = set()

    def ask(self, asked: Asked) -> Answering:
        """An answer to a request; nothing is computed before its events are asked for.

        Raises:
            UnknownModelError: nothing has this name.
            EngineDownError: nothing can be answered at the moment.
        """
        self.released.version_named(asked.name)
        self.require_engine()
        return Answering(asked, self.observers)

    async def events(self, answering: Answering) -> AsyncGenerator[tuple[int, Event], None]:
        """The number of an answer and what is new of it, of all answers as they come.

        Closing it ends what is still computed.

        Raises:
            QueueFullError: too many requests wait.
            FactoryError: the version or the engine could not answer.
            ShuttingDownError: the answer was cut because the server ends.
        """
        working = asyncio.create_task(self._work(answering))
        self._answering.add(answering)
        try:
            async with aclosing(answering.events()) as events:
                async for event in events:
                    yield event
        finally:
            self._answering.discard(answering)
            working.cancel()

    async def _work(self, answering: Answering) -> None:
        asked, failure = answering.asked, None
        try:
            async with (
                self.admission.seats(asked.caller.key_id, len(asked.choices)) as num_seats,
                self.version_for(asked.name, asked.caller) as version_id,
            ):
                answering.begin(version_id)
                await answering.run(self.engine, num_seats)
        except asyncio.CancelledError as error:
            answering.record(error)
            raise
        except Exception as error:  # noqa: BLE001  # whoever reads the events gets it
            failure = error
        # Observers come first: a client that reads the end may rate the answer at once.
        answering.record(failure)
        answering.end(failure)

    @asynccontextmanager
    async def version_for(self, name: str, caller: Caller) -> AsyncIterator[str]:
        """The version that a name means now, loaded for as long as it is needed.

        Raises:
            UnknownModelError: nothing has this name.
            FactoryError: the version is damaged or does not fit the base model.
        """
        version_id = self.choose_version(name, caller)
        async with self.versions.held(version_id):
            yield version_id

    def require_engine(self) -> None:
        """Refuse at once what the engine cannot do at the moment.

        Raises:
            EngineDownError: nothing can be answered.
        """
        if why := self.engine.unavailable:
            raise EngineDownError(f"{why} Ask again in a moment.")

    @asynccontextmanager
    async def turn(self, name: str, caller: Caller) -> AsyncIterator[str]:
        """A turn at the engine for work that is no answer, with the version that a name means.

        Raises:
            UnknownModelError: nothing has this name.
            EngineDownError: nothing can be computed at the moment.
            QueueFullError: too many requests wait.
            FactoryError: the version is damaged or does not fit the base model.
        """
        self.released.version_named(name)
        self.require_engine()
        async with self.admission.seats(caller.key_id, 1), self.version_for(name, caller) as chosen:
            yield chosen

    @property
    def quiet_seconds(self) -> float:
        """How long nothing has come of any answer whose turn has come; 0 where there is none."""
        begun = [each for each in self._answering if each.version_id]
        return min((each.quiet_seconds for each in begun), default=0.0)

    def health(self) -> dict[str, Any]:
        """The version that answers, the one that should, and how many requests wait."""
        return {
            "status": "unavailable" if self.engine.unavailable else "ok",
            "version": self.released.production,
            "released": self.released.released,
            "refused": sorted(self.released.refused),
            "running": self.admission.num_running,
            "queue": self.admission.num_waiting,
        }

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

    def _model(self, name: str, version_id: str) -> dict[str, Any]:
        folder = self.workspace.versions / version_id
        # A version whose folder was removed by hand may still be loaded, and answer.
        created = int(folder.stat().st_mtime) if folder.exists() else 0
        owner = self.workspace.folder.name
        head = {"id": name, "object": "model", "created": created, "owned_by": owner}
        return head | {"root": version_id}

    async def begin(self) -> None:
        """Load what is released; further calls do nothing.

        Raises:
            FactoryError: releases.json is damaged, or no version that was ever released answers.
        """
        await self.released.begin()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Watch the releases meanwhile; give up what is unfinished at the end."""
        await self.begin()
        watching = self.released.follow(poll_seconds=self.settings.poll_seconds)
        watcher = asyncio.create_task(watching)
        try:
            yield
        finally:
            watcher.cancel()
            self.cut_short()
            await self.engine.close()

    def cut_short(self) -> None:
        """End all answers now, finished or not, and tell their clients."""
        for answering in [*self._answering]:
            answering.cut()
