"""The HTTP routes, in OpenAI's shapes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from llama_factory.inference.generation import Engine
from llama_factory.serving import door, errors
from llama_factory.serving.answering import AnswerQueue
from llama_factory.serving.released import ReleasedVersions
from llama_factory.serving.service import ChatService
from llama_factory.serving.settings import ServingSettings
from llama_factory.serving.shapes import ChatRequest, Reply
from llama_factory.serving.streaming import first, server_sent, unless_gone, whole
from llama_factory.versions.workspace import Workspace

UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Asks proxies to pass a stream on at once."""


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
        api_key: what clients must send; None lets everyone in.

    Raises:
        VersionError: the released version is damaged or does not fit the base model.
    """
    released = ReleasedVersions(workspace, engine.load)
    queue = AnswerQueue(engine, workspace, max_waiting=settings.max_queue)
    service = ChatService(workspace, settings, queue, released)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    # Pages that describe the API would be open to everyone and load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service
    app.include_router(_open_routes(service))
    app.include_router(_routes(service))
    errors.install(app)
    door.install(app, settings, api_key)
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
