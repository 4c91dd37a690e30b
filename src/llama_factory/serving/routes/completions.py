"""`POST /v1/completions`."""

from fastapi import APIRouter, Request, Response

from llama_factory.serving.outcome import Asked
from llama_factory.serving.protocol.completions import CompletionRequest
from llama_factory.serving.protocol.replies import CompletionReply
from llama_factory.serving.service import Gateway
from llama_factory.serving.streaming import respond


def router(gateway: Gateway) -> APIRouter:
    """The route."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/completions")
    async def completions(body: CompletionRequest, request: Request) -> Response:
        choices = body.choices()
        reply = CompletionReply.to(body)
        asked = Asked(reply.id, body.model, body.caller(request.state.entry.key_id), choices)
        return await respond(gateway, asked, reply, request, is_stream=bool(body.stream))

    return routes
