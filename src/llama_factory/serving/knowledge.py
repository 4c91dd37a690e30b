"""Answers from documents: passages go into the prompt, and out with the answer as citations."""

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from llama_factory.core.errors import FactoryError
from llama_factory.inference.question import Answer, Options, Prompt, Question, RequestError
from llama_factory.knowledge.embedders import Embedder
from llama_factory.knowledge.grounding import Grounding, grounded, question_in
from llama_factory.knowledge.refresh import Library
from llama_factory.knowledge.retrieval import Retriever
from llama_factory.knowledge.settings import KnowledgeSettings
from llama_factory.serving.answering import Event
from llama_factory.serving.protocol.chat import ChatRequest
from llama_factory.serving.protocol.replies import ChatReply
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How often the folder is looked at."""
REST = 10.0
"""Between two looks it waits this many times as long as a look took, but no longer than this in
seconds: a folder of many files is looked at less often."""
COMPLAIN_SECONDS = 60.0
VECTORS_A_LOOK = 16
"""Vectors made between two looks: those of a long document must not keep others waiting."""

Choices = tuple[tuple[Prompt, Options], ...]


class ServedKnowledge:
    """The documents of a served workspace, followed as they change."""

    def __init__(self, workspace: Workspace, settings: KnowledgeSettings) -> None:
        """Nothing is read before `running`."""
        self._settings = settings
        folder, cache = workspace.folder / settings.folder, workspace.cache
        self._library = Library(folder, cache / "knowledge.db", settings)
        self._retriever = Retriever(self._library)
        self._ending = threading.Event()
        self._complained = -COMPLAIN_SECONDS

    async def ground(self, body: ChatRequest, choices: Choices) -> tuple[Choices, Grounding | None]:
        """Put what the documents hold into the prompts, where the request or the setting says so.

        Raises:
            RequestError: the request asks for documents and the workspace has none.
        """
        asked = body.knowledge
        wanted = asked.use if asked is not None else None
        if not (self._settings.use if wanted is None else wanted):
            return choices, None
        if not await asyncio.to_thread(self._library.folder.is_dir):
            if wanted is None:
                return choices, None
            raise RequestError(
                "knowledge: this server has no documents. Whoever runs it adds them with "
                "`llama-factory knowledge FOLDER add FILE`.",
                param="knowledge",
            )
        question = choices[0][0]
        if not isinstance(question, Question) or not (text := question_in(question.messages)):
            return choices, None
        top_k = asked.top_k if asked is not None else None
        found = await asyncio.to_thread(self._retriever.search, text, top_k)
        # One object for all answers: its tokens count once.
        filled = replace(question, messages=grounded(question.messages, found))
        grounding = Grounding(question, tuple(found))
        return tuple((filled, options) for _, options in choices), grounding

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the documents meanwhile, on a thread of its own."""
        thread = threading.Thread(target=self._follow, name="knowledge", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            await asyncio.to_thread(thread.join, 1.0)
            self._retriever.close()

    def _follow(self) -> None:
        embedder: Embedder | None = None
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                if self._library.folder.is_dir() or self._library.database.exists():
                    embedder = embedder or self._open_embedder()
                    self._look(embedder)
            except (FactoryError, OSError, sqlite3.Error) as error:
                self._complain(f"documents are not followed: {error}")
            took = time.monotonic() - began
            self._ending.wait(max(LOOK_SECONDS, min(REST * took, REST)))

    def _look(self, embedder: Embedder | None) -> None:
        done = self._library.refresh()
        for name, why in done.refused.items():
            logger.warning("document %s is left out: it %s", name, why)
        if done.read or done.removed:
            logger.info(
                "documents: %d read, %d gone, %d left out",
                len(done.read),
                len(done.removed),
                len(done.refused),
            )
        if embedder is not None:
            while not self._ending.is_set() and self._library.embed(embedder, VECTORS_A_LOOK):
                if self._library.refresh():
                    break

    def _open_embedder(self) -> Embedder | None:
        self._retriever.embedder = self._settings.vectors.open()
        return self._retriever.embedder

    def _complain(self, text: str) -> None:
        if time.monotonic() - self._complained >= COMPLAIN_SECONDS:
            self._complained = time.monotonic()
            logger.error("%s", text)


@dataclass
class GroundedReply:
    """A chat's response with the citations of its answers; see `Reply`."""

    reply: ChatReply
    grounding: Grounding

    def whole(self, version_id: str, answers: dict[int, Answer]) -> dict[str, Any]:
        """See `ChatReply`; `citations` beside the choices."""
        texts = [answers[index].text for index in sorted(answers)]
        return self.reply.whole(version_id, answers) | self.grounding.fields(texts)

    def begin(self, version_id: str) -> Iterator[dict[str, Any]]:
        """See `ChatReply`."""
        return self.reply.begin(version_id)

    def chunks(self, index: int, event: Event) -> Iterator[dict[str, Any]]:
        """See `ChatReply`; the chunk that ends an answer carries its `citations`."""
        ending = self.grounding.fields([event.text]) if isinstance(event, Answer) else {}
        for chunk in self.reply.chunks(index, event):
            is_last = bool(ending) and chunk["choices"][0]["finish_reason"] is not None
            yield chunk | ending if is_last else chunk

    def end(self, answers: dict[int, Answer]) -> Iterator[dict[str, Any]]:
        """See `ChatReply`."""
        return self.reply.end(answers)
