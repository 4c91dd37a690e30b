"""How answers leave the server: whole or as events, for as long as somebody listens."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from llama_factory.inference.question import Answer
from llama_factory.serving.answering import Answering, Event
from llama_factory.serving.error_responses import body_of
from llama_factory.serving.outcome import Asked
from llama_factory.serving.service import Gateway

UNBUFFERED = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""Asks proxies to pass a stream on at once."""

Result = TypeVar("Result")
Events = AsyncGenerator[tuple[int, Event], None]


class Reply(Protocol):
    """Writes answers in the shape of one route."""

    def whole(self, version_id: str, answers: dict[int, Answer]) -> dict[str, Any]:
        """The body of a response with all answers, by their numbers."""

    def begin(self, version_id: str) -> Iterator[dict[str, Any]]:
        """The chunks that begin a stream."""

    def chunks(self, index: int, event: Event) -> Iterator[dict[str, Any]]:
        """What a stream carries of one event."""

    def end(self, answers: dict[int, Answer]) -> Iterator[dict[str, Any]]:
        """The chunks that end a stream."""


@dataclass(frozen=True)
class Wire:
    """How the chunks of a stream are written as server-sent events.

    Attributes:
        chunk: writes one.
        error: writes what failed after the stream had begun.
        last: what ends every stream.
    """

    chunk: Callable[[dict[str, Any]], str]
    error: Callable[[Exception], str]
    last: str


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


OPENAI_WIRE = Wire(_event, lambda error: _event(body_of(error)), "data: [DONE]\n\n")


async def respond(
    gateway: Gateway,
    asked: Asked,
    reply: Reply,
    request: Request,
    *,
    is_stream: bool,
    wire: Wire = OPENAI_WIRE,
) -> Response:
    """Ask, and answer in a route's shape.

    Args:
        gateway: answers.
        asked: the request.
        reply: the shape.
        request: whose client may leave, and whose log entry says what came of it.
        is_stream: whether pieces are sent as they come.
        wire: how they are written.

    Raises:
        FactoryError: nothing has been sent yet.
        ClientDisconnect: nobody is left to answer.
    """
    answering = gateway.ask(asked)
    request.state.entry.answering = answering
    events = gateway.events(answering)
    if not is_stream:
        async with aclosing(events):
            answers = await unless_gone(request, whole(events))
        return JSONResponse(reply.whole(answering.version_id, answers))
    try:
        begun = await unless_gone(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    stream = server_sent(reply, answering, begun, events, wire)
    return StreamingResponse(stream, headers=UNBUFFERED, media_type="text/event-stream")


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
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working})  # before the events are closed, nobody reads them


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def whole(events: Events) -> dict[int, Answer]:
    """The answers at the end of all events, by their numbers."""
    return {index: event async for index, event in events if isinstance(event, Answer)}


async def server_sent(
    reply: Reply,
    answering: Answering,
    begun: tuple[int, Event],
    events: Events,
    wire: Wire = OPENAI_WIRE,
) -> AsyncIterator[str]:
    """Answers as they come.

    Args:
        reply: the shape of the chunks.
        answering: says which version answers.
        begun: the first event.
        events: the others.
        wire: how chunks are written.
    """
    answers: dict[int, Answer] = {}
    async with aclosing(events):
        for chunk in reply.begin(answering.version_id):
            yield wire.chunk(chunk)
        try:
            async for index, event in _joined(begun, events):
                if isinstance(event, Answer):
                    answers[index] = event
                for chunk in reply.chunks(index, event):
                    yield wire.chunk(chunk)
            for chunk in reply.end(answers):
                yield wire.chunk(chunk)
        except Exception as error:  # noqa: BLE001  # the status is sent: only the stream can tell
            yield wire.error(error)
        yield wire.last


async def _joined(begun: tuple[int, Event], events: Events) -> Events:
    yield begun
    async for event in events:
        yield event
