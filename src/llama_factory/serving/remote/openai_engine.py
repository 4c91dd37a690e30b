"""Answers by any server that speaks OpenAI's protocol. Nothing proves which weights it has."""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from llama_factory.core.errors import ModelError, VersionError
from llama_factory.core.types import BASE_VERSION, Message
from llama_factory.inference.question import (
    Answer,
    AnswerPiece,
    Options,
    Prompt,
    Question,
    RequestError,
)
from llama_factory.serving.errors import EngineDownError
from llama_factory.serving.proof import PROBE
from llama_factory.serving.remote import openai_protocol as protocol
from llama_factory.serving.remote.client import EngineClient, RefusedError
from llama_factory.serving.remote.openai_settings import OpenaiSettings
from llama_factory.serving.remote.watch import Activity, Times, Watch
from llama_factory.versions.version import ModelVersion

logger = logging.getLogger(__name__)

ASK_SECONDS = 10.0
PROBED = Question((Message("user", PROBE),))
ONE_TOKEN = Options(max_tokens=1, temperature=0.0)


class OpenaiEngine:
    """See `AnswerEngine`. The server is met by the first `load`."""

    def __init__(self, settings: OpenaiSettings) -> None:
        """Nothing is asked yet.

        Args:
            settings: where the server is, and its names of versions.
        """
        self._settings = settings
        self._names: dict[str, str] = {}
        self._client: EngineClient | None = None
        self._activity = Activity(settings.silence_seconds)
        times = Times(settings.silence_seconds, settings.probe_seconds)
        self._watch = Watch(
            settings.url, self._reached, self._probe, self._prepare, self._activity, times
        )

    @property
    def loaded(self) -> frozenset[str]:
        """See `AnswerEngine`."""
        return frozenset(self._names)

    @property
    def unavailable(self) -> str:
        """See `AnswerEngine`."""
        return self._watch.unavailable

    async def load(self, version: ModelVersion) -> None:
        """See `AnswerEngine`; that it answers a probe is all that can be seen.

        Raises:
            VersionError: the server has no name for it.
            EngineDownError: it is not there, or does not answer.
        """
        self._settings.require_takes(version)
        name = self._settings.models.get(version.id, "")
        await self._watch.up()
        if version.id in self._names:
            return
        await self._answer_probe(name)
        self._names[version.id] = name

    async def unload(self, version_id: str) -> None:
        """See `AnswerEngine`; nothing is freed in the other server."""
        if version_id != BASE_VERSION:
            self._names.pop(version_id, None)

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        """See `AnswerEngine`."""
        self._watch.require()
        try:
            with self._activity.answering():
                async with aclosing(
                    self._pieces(self._names[version_id], prompt, options)
                ) as pieces:
                    async for piece in pieces:
                        yield piece
        except RefusedError as error:
            raise RequestError(
                f"the engine refuses the request: {error}", param=error.param
            ) from error
        except EngineDownError:
            self._watch.suspect()
            raise

    async def tokens(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        """See `AnswerEngine`.

        Raises:
            RequestError: always: another server's tokens are not known.
        """
        raise RequestError("this server's engine is another server, whose tokens are not known.")

    async def text(self, ids: tuple[int, ...]) -> str:
        """See `AnswerEngine`.

        Raises:
            RequestError: always.
        """
        raise RequestError("this server's engine is another server, whose tokens are not known.")

    async def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        """See `AnswerEngine`.

        Raises:
            RequestError: always.
        """
        raise RequestError("this server's engine gives no embeddings. Ask it directly.")

    async def score(self, version_id: str, text: str, max_tokens: int | None) -> float:
        """See `AnswerEngine`.

        Raises:
            RequestError: always.
        """
        raise RequestError("this server's engine gives no scores. Use serving.engine: local.")

    async def close(self) -> None:
        """See `AnswerEngine`."""
        await self._watch.close()
        if self._client is not None:
            await self._client.close()

    async def _pieces(
        self, name: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        assert self._client is not None, "it was reached"
        path, body = protocol.request(name, prompt, options)
        reader = protocol.OpenaiReader()
        async with aclosing(self._client.events(path, body)) as events:
            async for event in events:
                self._activity.note()
                for piece in reader.take(event):
                    yield piece
        yield reader.answer()

    async def _answer_probe(self, name: str) -> None:
        """Make sure that something answers under a name.

        Raises:
            VersionError: the server refuses.
        """
        try:
            async with asyncio.timeout(self._settings.silence_seconds):
                async with aclosing(self._pieces(name, PROBED, ONE_TOKEN)) as pieces:
                    _ = [piece async for piece in pieces]
        except RefusedError as error:
            raise VersionError(
                f"serving.engine: {self._settings.url} refuses to answer as '{name}': {error}"
            ) from error
        except TimeoutError as error:
            raise EngineDownError("the engine does not answer a probe.") from error

    async def _prepare(self) -> None:
        """Look for the base model's name, and see that it answers."""
        name = self._settings.model or (await self._listed())[0]
        await self._answer_probe(name)
        self._names[BASE_VERSION] = name

    async def _listed(self) -> list[str]:
        assert self._client is not None, "it was reached"
        try:
            reply = await self._client.get("/models", seconds=ASK_SECONDS)
            names = [str(card["id"]) for card in reply["data"]]
        except (RefusedError, TypeError, KeyError) as error:
            raise ModelError(
                f"serving.engine: {self._settings.url} lists no models ({error}). Look at its "
                "address and its key, or name the model: serving.engine.model."
            ) from error
        if not names:
            raise ModelError(f"serving.engine: {self._settings.url} serves no model.")
        return names

    async def _probe(self, seconds: float) -> None:
        """Any reply, also a refusal, shows that it is there."""
        assert self._client is not None, "it was reached"
        try:
            await self._client.get("/models", seconds=seconds)
        except RefusedError:
            return

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        if self._client is not None:
            await self._client.close()
        key_env = self._settings.key_env
        key = os.environ.get(key_env, "") if key_env else ""
        self._client = EngineClient.to(self._settings.url, key, self._settings.silence_seconds)
        yield None
