"""`POST /tokenize` and `POST /detokenize`, in vLLM's shapes."""

from typing import Any

from fastapi import APIRouter, Request

from llama_factory.serving.outcome import Caller
from llama_factory.serving.protocol.tokens import DetokenizeRequest, TokenizeRequest
from llama_factory.serving.service import Gateway


def router(gateway: Gateway) -> APIRouter:
    """The routes."""
    routes = APIRouter()

    @routes.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> dict[str, Any]:
        prompt = body.asked()
        async with gateway.turn(body.model, Caller(request.state.entry.key_id)) as version_id:
            ids = await gateway.engine.tokens(version_id, prompt)
            texts = [await gateway.engine.text((each,)) for each in ids]
        strings = texts if body.return_token_strs else None
        return {"count": len(ids), "tokens": list(ids), "token_strs": strings}

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> dict[str, Any]:
        ids = body.ids()
        gateway.released.version_named(body.model)
        gateway.require_engine()
        return {"prompt": await gateway.engine.text(ids)}

    return routes
