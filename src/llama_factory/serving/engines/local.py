"""The engine in this process: answers of all versions together, on a thread of its own."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from llama_factory.core.openmp import in_passing
from llama_factory.inference.question import Answer, AnswerPiece, Options, Prompt
from llama_factory.inference.request import Ticket
from llama_factory.inference.settings import InferenceSettings
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.engines import ENGINES, EngineSettings
from llama_factory.serving.engines.worker import Worker
from llama_factory.serving.errors import ShuttingDownError
from llama_factory.serving.proof import prove
from llama_factory.versions import proof as proofs
from llama_factory.versions.proof import Proof
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

Result = TypeVar("Result")


@ENGINES.register("local")
class Local(EngineSettings):
    """The model runs in the server's own process; `inference` says how."""

    def open(
        self,
        model: ModelSettings,
        workspace: Workspace,
        usual: PromptFormat,
        inference: InferenceSettings,
    ) -> "LocalEngine":
        """See `EngineSettings`."""
        return LocalEngine(model, usual, inference)


class LocalEngine:
    """See `AnswerEngine`."""

    unavailable = ""

    def __init__(
        self,
        settings: ModelSettings,
        usual: PromptFormat = USUAL,
        inference: InferenceSettings | None = None,
    ) -> None:
        """Load the base model; see `VersionEngine`.

        Raises:
            ModelError: it cannot be found or read.
        """
        from llama_factory.inference.version_engine import VersionEngine

        self._engine = in_passing(partial(VersionEngine, settings, usual, inference))
        self._proving: frozenset[str] = frozenset()
        self._worker = Worker(self._step, self._engine.fail_all)

    @property
    def loaded(self) -> frozenset[str]:
        """See `AnswerEngine`."""
        return self._engine.loaded - self._proving

    async def load(self, version: ModelVersion) -> None:
        """See `AnswerEngine`; the files are read while answers go on."""
        if version.id in self.loaded:
            return
        place = await asyncio.to_thread(in_passing, partial(self._engine.read, version))
        proof = await asyncio.to_thread(proofs.read, version)
        self._proving |= {version.id}
        try:
            await self._do(partial(self._engine.load, version, place))
            await self._prove(version.id, proof)
        finally:
            self._proving -= {version.id}

    async def _prove(self, version_id: str, proof: Proof) -> None:
        """Let a version leave again where its answers are not its own.

        One row at a time: others' answers go on between two of them.
        """
        try:
            losses = [
                await self._do(partial(self._engine.loss, version_id, row.prompt, row.answer))
                for row in proof.rows
            ]
            if losses:
                prove(losses, proof)
        except BaseException:
            await self._do(partial(self._engine.unload, version_id))
            raise

    async def unload(self, version_id: str) -> None:
        """See `AnswerEngine`."""
        await self._do(partial(self._engine.unload, version_id))

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        """See `AnswerEngine`."""
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[AnswerPiece | Answer | Exception] = asyncio.Queue()

        def deliver(event: AnswerPiece | Answer | Exception) -> None:
            # A second Ctrl-C closes the loop under an answer in progress: nobody hears it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(events.put_nowait, event)

        prepared = await asyncio.to_thread(self._engine.prepare, version_id, prompt, options)
        submitted = self._worker.submit(partial(self._engine.submit, prepared, deliver))
        try:
            await asyncio.wrap_future(submitted)
            while not isinstance(event := await events.get(), Answer):
                if isinstance(event, Exception):
                    raise event
                yield event
            yield event
        finally:
            submitted.add_done_callback(self._cancel)

    async def tokens(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        """See `AnswerEngine`."""
        return tuple(await asyncio.to_thread(self._engine.tokens, version_id, prompt))

    async def text(self, ids: tuple[int, ...]) -> str:
        """See `AnswerEngine`."""
        return await asyncio.to_thread(self._engine.text, ids)

    async def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        """See `AnswerEngine`."""
        return await self._do(partial(self._engine.embed, version_id, prompt))

    async def score(self, version_id: str, text: str, max_tokens: int | None) -> float:
        """See `AnswerEngine`."""
        return await self._do(partial(self._engine.score, version_id, text, max_tokens))

    async def close(self) -> None:
        """See `AnswerEngine`."""
        ending = ShuttingDownError("the server is being stopped. Ask again once it is back.")
        self._worker.submit(partial(self._engine.fail_all, ending))
        await asyncio.to_thread(self._worker.stop)

    async def _do(self, work: Callable[[], Result]) -> Result:
        return await asyncio.wrap_future(self._worker.submit(work))

    def _step(self) -> bool:
        self._engine.step()
        return not self._engine.is_idle

    def _cancel(self, submitted: "Future[Ticket]") -> None:
        """Whoever asked has left, or has the whole answer."""
        if not submitted.cancelled() and submitted.exception() is None:
            self._engine.cancel(submitted.result())
