"""`POST /v1/messages` and `/v1/messages/count_tokens`, in Anthropic's shapes."""

from fastapi import APIRouter, Request, Response

from llama_factory.serving.outcome import Asked, Caller
from llama_factory.serving.protocol.message_replies import WIRE, MessageReply
from llama_factory.serving.protocol.messages import MessagesRequest, MessagesTurns
from llama_factory.serving.service import Gateway
from llama_factory.serving.streaming import respond


def router(gateway: Gateway) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/messages")
    async def messages(body: MessagesRequest, request: Request) -> Response:
        chat = body.chat()
        choices = chat.choices(gateway.settings.max_tokens)
        reply = MessageReply(chat.tool_use())
        asked = Asked(reply.id, body.model, chat.caller(request.state.entry.key_id), choices)
        is_stream = bool(body.stream)
        return await respond(gateway, asked, reply, request, is_stream=is_stream, wire=WIRE)

    @routes.post("/messages/count_tokens")
    async def count_tokens(body: MessagesTurns, request: Request) -> dict[str, int]:
        question = body.question()
        async with gateway.turn(body.model, Caller(request.state.entry.key_id)) as version_id:
            return {"input_tokens": len(await gateway.engine.tokens(version_id, question))}

    return routes
