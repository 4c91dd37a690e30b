"""The HTTP routes, what they do, and how answers leave the server: whole or as events."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from llama_factory.inference.engine import Engine
from llama_factory.inference.question import Answer
from llama_factory.serving import errors, middleware
from llama_factory.serving.errors import body_of
from llama_factory.serving.keys import KeyRing
from llama_factory.serving.limits import KeyLimits
from llama_factory.serving.protocol import ChatRequest, Reply
from llama_factory.serving.queue import AnswerQueue, PendingAnswer
from llama_factory.serving.released import ReleasedVersions
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace

UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Asks proxies to pass a stream on at once."""


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


def create_app(
    workspace: Workspace,
    settings: ServingSettings,
    engine: Engine,
    *,
    api_key: str | None = None,
) -> FastAPI:
    """The API for a workspace's released version.

    Args:
        workspace: whose versions answer.
        settings: limits.
        engine: runs the model; from now on only the app's own thread may use it.
        api_key: a key beside those of the workspace; where there is none at all, everyone gets in.

    Raises:
        VersionError: the released version is damaged or does not fit the base model.
    """
    released = ReleasedVersions(workspace, engine.load)
    queue = AnswerQueue(engine, workspace, max_waiting=settings.max_queue)
    ring = KeyRing(workspace.folder / settings.keys, api_key)
    service = ChatService(workspace, settings, queue, released)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running(), ring.followed():
            yield

    # Pages that describe the API would be open to everyone and load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.include_router(_open_routes(service))
    app.include_router(_routes(service))
    errors.install(app)
    middleware.install(app, settings, ring, KeyLimits())
    return app


def _open_routes(service: ChatService) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, Any]:
        return service.health()

    return router


def _routes(service: ChatService) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": service.models()}

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        return service.model(name)

    @router.post("/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        return await _chat(service, body, request)

    return router


async def _chat(service: ChatService, body: ChatRequest, request: Request) -> Response:
    pending = request.state.entry.pending = service.ask(body)
    events = pending.events()
    try:
        if not body.stream:
            answer = await unless_gone(request, whole(events))
            return JSONResponse(Reply(pending.version_id).whole(answer))
        begun = await unless_gone(request, first(events))
    except BaseException:
        pending.cancel()
        raise
    reply = Reply(pending.version_id)
    stream = server_sent(reply, begun, events, wants_usage=body.wants_usage)
    return StreamingResponse(stream, headers=UNBUFFERED, media_type="text/event-stream")


Result = TypeVar("Result")
Events = AsyncGenerator[str | Answer, None]


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which is cancelled when the client closes the connection.

    Raises:
        ClientDisconnect: nobody is left to answer.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def first(events: Events) -> str | Answer:
    """The first event; a failure before it is raised here, where it still gets a status."""
    return await anext(events)


async def whole(events: Events) -> Answer:
    """The answer at the end of all events."""
    answers = [event async for event in events if isinstance(event, Answer)]
    return answers[0]


async def server_sent(
    reply: Reply, begun: str | Answer, events: Events, *, wants_usage: bool
) -> AsyncIterator[str]:
    """An answer as OpenAI streams it.

    Args:
        reply: what the chunks share.
        begun: the first event.
        events: the others.
        wants_usage: end with a chunk that carries the token counts.
    """
    yield _event(reply.chunk({"role": "assistant", "content": ""}))
    try:
        async for event in _joined(begun, events):
            if isinstance(event, str):
                yield _event(reply.chunk({"content": event}))
                continue
            yield _event(reply.chunk({}, event.finish_reason))
            if wants_usage:
                yield _event(reply.usage_chunk(event))
    except Exception as error:  # noqa: BLE001  # the status is sent: only the stream can tell
        yield _event(body_of(error))
    yield "data: [DONE]\n\n"


async def _joined(begun: str | Answer, events: Events) -> Events:
    yield begun
    async for event in events:
        yield event


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
