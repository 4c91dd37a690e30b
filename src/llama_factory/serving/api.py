"""The app: a gateway, its routes, and what every request passes before them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from llama_factory.data.cleaning.private_data import PrivateData
from llama_factory.knowledge.settings import KnowledgeSettings
from llama_factory.serving import error_responses, middleware
from llama_factory.serving.canary_watch import CanaryWatch
from llama_factory.serving.conversations import ConversationKeeper, Conversations
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.feedback import FeedbackStore
from llama_factory.serving.key_check import KeyAccess
from llama_factory.serving.keys import KeyRing
from llama_factory.serving.knowledge import ServedKnowledge
from llama_factory.serving.limits import KeyLimits
from llama_factory.serving.readiness import GatewayReadings
from llama_factory.serving.routes import (
    adapters,
    chat,
    completions,
    embeddings,
    feedback,
    health,
    messages,
    models,
    operations,
    scores,
    tokens,
)
from llama_factory.serving.service import Gateway
from llama_factory.serving.settings import ServingSettings
from llama_factory.serving.shadow import Shadow
from llama_factory.versions.workspace import Workspace

ROUTES = (health, models, completions, messages, embeddings, scores, tokens, adapters, operations)


def create_app(
    workspace: Workspace,
    settings: ServingSettings,
    engine: AnswerEngine,
    *,
    api_key: str | None = None,
    private: PrivateData | None = None,
    knowledge: KnowledgeSettings | None = None,
) -> FastAPI:
    """The API for a workspace's released version.

    Args:
        workspace: whose versions answer.
        settings: limits.
        engine: makes the tokens; it is closed when the app ends.
        api_key: a key beside those of the workspace; where there is none at all, everyone gets in.
        private: what is masked in conversations that are kept; None for all kinds.
        knowledge: the documents that answers draw on; None for the usual settings.
    """
    gateway = Gateway(workspace, settings, engine)
    ring = KeyRing(workspace.folder / settings.keys, api_key)
    limits = KeyLimits()
    conversations = Conversations(workspace, settings, private)
    canary, shadow = CanaryWatch(gateway, settings.canary), Shadow(gateway, settings.shadow)
    gateway.choose_version = canary.choose
    gateway.observers += [limits, ConversationKeeper(conversations), canary, shadow]
    store = FeedbackStore(workspace, conversations, private)
    documents = ServedKnowledge(workspace, knowledge or KnowledgeSettings())
    readings = GatewayReadings(gateway, ring)
    gateway.metrics.sources.append(readings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with (
            conversations.running(),
            gateway.running(),
            ring.followed(),
            canary.running(),
            shadow.running(),
            documents.running(),
        ):
            yield

    # Pages that describe the API would be open to everyone and load scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.gateway, app.state.readings = gateway, readings
    routers = [subject.router(gateway) for subject in ROUTES]
    routers += [chat.router(gateway, documents), feedback.router(gateway, store)]
    app.state.routes = [each for router in routers for each in _named(router)]
    for router in routers:
        app.include_router(router)
    error_responses.install(app)
    middleware.install(app, settings, KeyAccess(ring, limits), gateway.metrics)
    return app


def _named(router: APIRouter) -> Iterator[str]:
    """The routes of a subject as a message names them."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            yield from (f"{method} {route.path}" for method in sorted(route.methods or ()))
