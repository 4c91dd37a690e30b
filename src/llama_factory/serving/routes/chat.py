"""`POST /v1/chat/completions`."""

from fastapi import APIRouter, Request, Response

from llama_factory.serving.knowledge import GroundedReply, ServedKnowledge
from llama_factory.serving.outcome import Asked
from llama_factory.serving.protocol.chat import ChatRequest
from llama_factory.serving.protocol.replies import ChatReply
from llama_factory.serving.service import Gateway
from llama_factory.serving.streaming import respond


def router(gateway: Gateway, knowledge: ServedKnowledge) -> APIRouter:
    """The route."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/chat/completions")
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        choices = body.choices(gateway.settings.max_tokens)
        reply = ChatReply.to(body)
        caller = body.caller(request.state.entry.key_id)
        choices, grounding = await knowledge.ground(body, choices)
        asked = Asked(reply.id, body.model, caller, choices, grounding)
        shape = reply if grounding is None else GroundedReply(reply, grounding)
        return await respond(gateway, asked, shape, request, is_stream=bool(body.stream))

    return routes
