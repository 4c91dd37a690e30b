"""Answers as they leave the server: server-sent events, and clients that go away."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from llama_factory.inference.generation import Answer
from llama_factory.serving.errors import body_of
from llama_factory.serving.shapes import Reply

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
