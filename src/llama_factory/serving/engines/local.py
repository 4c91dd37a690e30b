"""The engine in this process: answers of all versions, one after the other, on one thread."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

from llama_factory.inference.question import (
    Answer,
    AnswerPiece,
    Options,
    Prompt,
    Question,
    RequestError,
)
from llama_factory.model.chat.prompt_format import USUAL, PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.engines import ENGINES, EngineSettings
from llama_factory.serving.engines.worker import AT_ONCE, BEFORE_THE_NEXT, Worker
from llama_factory.serving.errors import ShuttingDownError
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

USED = frozenset({"max_tokens", "temperature", "top_p", "stop", "seed"})


@ENGINES.register("local")
class Local(EngineSettings):
    """The model runs in the server's own process."""

    def open(
        self, model: ModelSettings, workspace: Workspace, usual: PromptFormat
    ) -> "LocalEngine":
        """See `EngineSettings`."""
        return LocalEngine(model, usual)


class LocalEngine:
    """See `AnswerEngine`."""

    unavailable = ""

    def __init__(self, settings: ModelSettings, usual: PromptFormat = USUAL) -> None:
        """Load the base model.

        Args:
            settings: which one.
            usual: how the base version is asked, and versions that nothing was written down for.

        Raises:
            ModelError: it cannot be found or read.
        """
        from llama_factory.inference.engines.transformers import TransformersEngine

        self._engine = TransformersEngine(settings, usual)
        self._worker = Worker()
        self._is_closing = threading.Event()

    @property
    def loaded(self) -> frozenset[str]:
        """See `AnswerEngine`."""
        return self._engine.loaded

    async def load(self, version: ModelVersion) -> None:
        """See `AnswerEngine`."""
        loading = self._worker.submit(partial(self._engine.load, version), urgency=AT_ONCE)
        await asyncio.wrap_future(loading)

    async def unload(self, version_id: str) -> None:
        """See `AnswerEngine`."""
        work = partial(self._engine.unload, version_id)
        await asyncio.wrap_future(self._worker.submit(work, urgency=BEFORE_THE_NEXT))

    async def answer(
        self, version_id: str, prompt: Prompt, options: Options
    ) -> AsyncGenerator[AnswerPiece | Answer, None]:
        """See `AnswerEngine`."""
        question = _question(prompt)
        _require_used(options)
        loop, is_cut = asyncio.get_running_loop(), threading.Event()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()

        def put(piece: str | None) -> None:
            # A second Ctrl-C closes the loop under an answer in progress: nobody hears it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def should_stop() -> bool:
            self._worker.run_urgent()
            return is_cut.is_set() or self._is_closing.is_set()

        work = partial(self._engine.generate, version_id, question, options, put, should_stop)
        answering = self._worker.submit(work)
        answering.add_done_callback(lambda _: put(None))
        try:
            while (piece := await pieces.get()) is not None:
                yield AnswerPiece(piece)
            if self._is_closing.is_set():
                raise ShuttingDownError("the server is being stopped. Ask again once it is back.")
            yield answering.result()
        finally:
            is_cut.set()
            answering.cancel()

    async def tokens(self, version_id: str, prompt: Prompt) -> tuple[int, ...]:
        """See `AnswerEngine`."""
        return tuple(self._engine.prompt(version_id, _question(prompt)))

    async def text(self, ids: tuple[int, ...]) -> str:
        """See `AnswerEngine`."""
        raise RequestError("this engine does not turn token ids into text.")

    async def embed(self, version_id: str, prompt: Prompt) -> tuple[float, ...]:
        """See `AnswerEngine`."""
        raise RequestError("this engine gives no embeddings.")

    async def close(self) -> None:
        """See `AnswerEngine`."""
        self._is_closing.set()
        await asyncio.to_thread(self._worker.stop)


def _question(prompt: Prompt) -> Question:
    if not isinstance(prompt, Question):
        raise RequestError("this engine continues no text without a chat template.")
    return prompt


def _require_used(options: Options) -> None:
    """Refuse what would change the answer and is not computed."""
    usual: Any = Options(max_tokens=options.max_tokens)
    for name in vars(usual).keys() - USED:
        if getattr(options, name) != getattr(usual, name):
            raise RequestError(f"{name}: this engine does not support it.", param=name)
