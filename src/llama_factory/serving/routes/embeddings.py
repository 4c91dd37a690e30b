"""`POST /v1/embeddings`."""

from typing import Any

from fastapi import APIRouter, Request

from llama_factory.serving.outcome import Caller
from llama_factory.serving.protocol.embeddings import EmbeddingRequest
from llama_factory.serving.service import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The route."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/embeddings")
    async def embeddings(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        prompts = body.prompts()
        caller = Caller(request.state.entry.key_id, body.user or "")
        async with gateway.turn(body.model, caller) as version_id:
            engine = gateway.engine
            vectors = [await engine.embed(version_id, prompt) for prompt in prompts]
            num_tokens = sum([len(await engine.tokens(version_id, each)) for each in prompts])
        return body.reply(version_id, vectors, num_tokens)

    return routes
