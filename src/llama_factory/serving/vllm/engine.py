"""Answers by vLLM in a process of its own: adapters under immutable names, proven before traffic.

It differs from vLLM's own habits where those went wrong for others (docs/serving.md, "Engines"): an
adapter's name and folder never change, nothing is loaded in place or looked up by a name of a
request, and a version answers only after its losses are those that were stored with it.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from llama_factory.core.errors import FactoryError
from llama_factory.core.types import BASE_VERSION
from llama_factory.inference.question import (
    Answer,
    AnswerPiece,
    Options,
    Prompt,
    PromptTooLongError,
    RequestError,
)
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.errors import EngineDownError
from llama_factory.serving.proof import pairs_to_measure, prove
from llama_factory.serving.remote.child import Child, free_port
from llama_factory.serving.remote.client import EngineClient, RefusedError
from llama_factory.serving.remote.watch import Activity, Times, Watch
from llama_factory.serving.vllm import protocol
from llama_factory.serving.vllm import server as calls
from llama_factory.serving.vllm.adapter_folders import (
    AdapterFolders,
    ServedAdapter,
    rank_to_expect,
)
from llama_factory.serving.vllm.reader import CompletionReader
from llama_factory.serving.vllm.rendering import Rendering
from llama_factory.serving.vllm.server import NOT_FOUND, VllmServer
from llama_factory.serving.vllm.settings import VllmSettings
from llama_factory.versions import proof as proofs
from llama_factory.versions import store
from llama_factory.versions.proof import Ids, Proof
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(eq=False)
class _Loaded:
    """A version that vLLM answers with.

    Attributes:
        version: which.
        adapter: its folder; None for the base version.
        proof: what it is known by.
        num_answers: in progress.
        is_leaving: to be unloaded after the last of them.
    """

    version: ModelVersion
    adapter: ServedAdapter | None
    proof: Proof
    num_answers: int = 0
    is_leaving: bool = False


class VllmEngine:
    """See `AnswerEngine`. vLLM is started, or met, by the first `load`."""

    def __init__(
        self,
        settings: VllmSettings,
        workspace: Workspace,
        model: ModelSettings,
        usual: PromptFormat,
    ) -> None:
        """Read the tokenizer.

        Args:
            settings: where vLLM is.
            workspace: whose versions answer.
            model: the base model.
            usual: how the base version is asked.

        Raises:
            ModelError: the model cannot be found or read.
        """
        self._settings, self._workspace = settings, workspace
        self._rendering = Rendering(model, usual)
        # One thread: tokenizers are not made to be used by several at once.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._folders = AdapterFolders(workspace, settings.adapters)
        self._versions: dict[str, _Loaded] = {}
        self._client: EngineClient | None = None
        self._server: VllmServer | None = None
        self._changing = asyncio.Lock()
        self._activity = Activity(settings.silence_seconds)
        times = Times(settings.start_seconds, settings.probe_seconds)
        running = self._started if settings.python else self._reached
        self._watch = Watch("vLLM", running, self._probe, self._prepare, self._activity, times)

    @property
    def loaded(self) -> frozenset[str]:
        """See `AnswerEngine`; while vLLM starts again, those that it will have loaded then.

        Before the first `load` there is none: the base version has to be proven, too.
        """
        return frozenset(self._versions)

    @property
    def unavailable(self) -> str:
        """See `AnswerEngine`."""
        return self._watch.unavailable

    async def load(self, version: ModelVersion) -> None:
        """See `AnswerEngine`.

        Raises:
            VersionError: vLLM does not take it, or computes other answers than it was made with.
            EngineDownError: vLLM cannot be started.
        """
        entry = self._versions.get(version.id)
        if entry is None:
            proof = await self._work(lambda: proofs.read(version))
            adapter = None
            if not version.is_base:
                adapter = await self._work(lambda: self._folders.write(version))
            entry = _Loaded(version, adapter, proof)
        await self._watch.up()
        async with self._changing:
            if version.id not in self._versions:
                await self._install(entry)
                await self._work(lambda: self._rendering.add(version))
                self._versions[version.id] = entry
            self._versions[version.id].is_leaving = False

    async def unload(self, version_id: str) -> None:
        """See `AnswerEngine`; where somebody is still being answered, after the end of that."""
        entry = self._versions.get(version_id)
        if entry is None or entry.version.is_base:
            return
        entry.is_leaving = True
        await self._leave(entry)

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        """See `AnswerEngine`."""
        self._reachable()
        ids = await self.tokens(version_id, prompt)
        server, entry = self._reachable(), self._entry(version_id)
        entry.num_answers += 1
        try:
            with self._activity.answering():
                async with aclosing(self._pieces(server, entry, ids, options)) as pieces:
                    async for piece in pieces:
                        yield piece
        except EngineDownError:
            self._watch.suspect()
            raise
        finally:
            entry.num_answers -= 1
            await self._leave(entry)

    async def tokens(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        """See `AnswerEngine`."""
        return await self._work(lambda: self._rendering.ids(version_id, prompt))

    async def text(self, ids: tuple[int, ...]) -> str:
        """See `AnswerEngine`."""
        return await self._work(lambda: self._rendering.text(ids))

    async def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        """See `AnswerEngine`.

        Raises:
            RequestError: always: a vLLM that generates text gives no embeddings.
        """
        raise RequestError(
            "embeddings are not given by this server: its engine (vLLM) runs to generate text. "
            "Ask a server with `serving.engine: local`.",
            param="model",
        )

    async def score(self, version_id: str, text: str, max_tokens: int | None) -> float:
        """See `AnswerEngine`.

        Raises:
            RequestError: always: a vLLM that generates text gives no scores.
        """
        raise RequestError(
            "scores are not given by this server: its engine (vLLM) runs to generate text. "
            "Ask a server with `serving.engine: local`.",
            param="model",
        )

    async def loss(self, version_id: str, prompt_ids: Ids, answer_ids: Ids) -> float:
        """The mean negative log-likelihood of an answer under a version, in nats a token.

        Raises:
            EngineDownError: vLLM is not there.
        """
        server = self._reachable()
        return await server.loss(_name(server, self._entry(version_id)), prompt_ids, answer_ids)

    async def close(self) -> None:
        """See `AnswerEngine`."""
        await self._watch.close()
        if self._client is not None:
            await self._client.close()
        self._thread.shutdown(wait=False)

    async def _pieces(
        self, server: VllmServer, entry: _Loaded, ids: Ids, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        """The answer; where vLLM forgot the adapter, it is given it once more before."""
        room = server.context - len(ids)
        if room < 1:
            raise PromptTooLongError(
                f"messages have {len(ids)} tokens and the engine reads {server.context - 1} before "
                "an answer. Shorten them, or leave out old turns."
            )
        ends = self._rendering.ends(entry.version.id)
        name, most = _name(server, entry), min(options.max_tokens, room)
        body = protocol.completion(name, ids, options, max_tokens=most, ends=ends)
        for is_last in (False, True):
            reader = CompletionReader(
                self._rendering.logprob, options.num_logprobs or 0, ends, len(ids)
            )
            try:
                async with aclosing(server.events(body)) as events:
                    async for event in events:
                        self._activity.note()
                        for piece in reader.take(event):
                            yield piece
                yield reader.answer()
                return
            except RefusedError as error:  # it comes before the first piece
                if error.status != NOT_FOUND or is_last or entry.adapter is None:
                    raise _as_request_error(error) from error
            logger.error("vLLM forgot %s, which is loaded again", name)
            async with self._changing:
                await self._install(entry)

    async def _install(self, entry: _Loaded) -> None:
        """Give vLLM an adapter, and prove what it computes.

        Raises:
            FactoryError: it refuses the adapter, or computes something else; it is taken back.
        """
        server, adapter = self._met(), entry.adapter
        if adapter is not None:
            # It is still there unless somebody emptied the cache.
            await self._work(lambda: self._folders.write(entry.version))
            await server.give(adapter)
        try:
            pairs = pairs_to_measure(entry.proof, self._rendering.encode)
            name = _name(server, entry)
            prove([await server.loss(name, *pair) for pair in pairs], entry.proof)
        except FactoryError:
            if adapter is not None:
                await server.take_back(adapter)
            raise

    async def _leave(self, entry: _Loaded) -> None:
        """Unload what is to leave, once nobody is being answered by it."""
        version_id = entry.version.id
        if not entry.is_leaving or entry.num_answers or entry.adapter is None:
            return
        if self._versions.get(version_id) is entry:
            del self._versions[version_id]
            self._rendering.remove(version_id)
            if self._server is not None and not self.unavailable:
                await self._server.take_back(entry.adapter)

    async def _prepare(self) -> None:
        """Meet the vLLM that has just come up, and give it all versions that are in use."""
        assert self._client is not None, "it was started or reached"
        self._server = await VllmServer.meet(self._client, self._settings.model)
        base = await self._work(lambda: store.get(self._workspace, BASE_VERSION, verify=False))
        async with self._changing:
            proof = await self._work(lambda: proofs.read(base))
            self._versions[BASE_VERSION] = _Loaded(base, None, proof)
            for version_id, entry in list(self._versions.items()):
                try:
                    await self._install(entry)
                except EngineDownError:
                    raise
                except FactoryError as error:
                    if entry.adapter is None:
                        raise
                    logger.error("%s is not served any more: %s", version_id, error)
                    del self._versions[version_id]

    async def _probe(self, seconds: float) -> None:
        assert self._client is not None, "it was started or reached"
        await calls.ask_health(self._client, seconds)

    @asynccontextmanager
    async def _started(self) -> AsyncIterator[Child]:
        """A vLLM of our own on a free port, behind a key that nobody else knows."""
        await self._work(self._folders.remove_stale)
        rank = await self._work(lambda: rank_to_expect(self._workspace))
        port, key = free_port(), secrets.token_urlsafe(32)
        command = calls.command(self._settings, self._rendering.base_folder, port, rank)
        variables = calls.environment(self._settings, key)
        log = self._workspace.cache / "engine" / "vllm.log"
        child = await Child.start(command, variables, log)
        logger.info("vLLM is started as process %d (log: %s)", child.id, log)
        try:
            await self._connect(f"http://127.0.0.1:{port}", key)
            yield child
        finally:
            await child.stop()

    @asynccontextmanager
    async def _reached(self) -> AsyncIterator[None]:
        """The vLLM at the address of the settings."""
        key_env = self._settings.key_env
        await self._connect(self._settings.url, os.environ.get(key_env, "") if key_env else "")
        yield None

    async def _connect(self, url: str, key: str) -> None:
        if self._client is not None:
            await self._client.close()
        self._client = EngineClient.to(url, key, self._settings.silence_seconds)

    def _reachable(self) -> VllmServer:
        self._watch.require()
        return self._met()

    def _met(self) -> VllmServer:
        if self._server is None:
            raise EngineDownError("vLLM is not started yet. Ask again later.")
        return self._server

    def _entry(self, version_id: str) -> _Loaded:
        entry = self._versions.get(version_id)
        if entry is None:  # it was proven to be another version's after a restart
            raise EngineDownError(f"{version_id} is not loaded at the moment. Ask again later.")
        return entry

    async def _work(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _name(server: VllmServer, entry: _Loaded) -> str:
    return server.base if entry.adapter is None else entry.adapter.name


def _as_request_error(error: RefusedError) -> RequestError:
    return RequestError(f"the engine (vLLM) refuses the request: {error}", param=error.param)
