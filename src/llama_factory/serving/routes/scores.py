"""`POST /v1/score/evaluation`."""

from typing import Any

from fastapi import APIRouter, Request

from llama_factory.serving.outcome import Caller
from llama_factory.serving.protocol.scores import ScoreRequest
from llama_factory.serving.service import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The route."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/score/evaluation")
    async def scores(body: ScoreRequest, request: Request) -> dict[str, Any]:
        texts = body.texts()
        async with gateway.turn(body.model, Caller(request.state.entry.key_id)) as version_id:
            score = gateway.engine.score
            found = [await score(version_id, text, body.max_length) for text in texts]
        return body.reply(version_id, found)

    return routes
