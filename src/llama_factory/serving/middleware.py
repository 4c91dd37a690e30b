"""What every request passes before its body is parsed: log, origin, key, size. ASGI, no routes."""

import asyncio
import contextlib
import logging
import re
import secrets
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_factory.inference.question import RequestError
from llama_factory.serving.errors import (
    CLIENT_GONE,
    BodyTooLargeError,
    BodyTooSlowError,
    KeyRefusedError,
    body_of,
)
from llama_factory.serving.queue import PendingAnswer
from llama_factory.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

OPEN_PATH = "/health"
"""Needs no key, and is not logged where it succeeds: it is asked every few seconds."""

REQUEST_ID = "x-request-id"
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""

LINGER_SECONDS = 2.0
"""How long what a refused client still sends is read and dropped, so that it reads the answer."""

MB = 1_000_000


def install(app: FastAPI, settings: ServingSettings, api_key: str | None) -> None:
    """Put what every request passes before an app's routes; what is added last is passed first."""
    app.add_middleware(_Guarded)
    app.add_middleware(_BoundedBody, max_bytes=settings.max_body_mb * MB)
    app.add_middleware(_KeyCheck, api_key=api_key)
    if settings.allowed_origins:
        # Keys travel in a header of their own, so that browsers need no credentials mode.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(_Logged)


@dataclass
class Entry:
    """What the log says of one request.

    Attributes:
        id: sent back as `x-request-id`.
        pending: the answer, where one was asked for.
        status: of the response.
    """

    id: str
    pending: PendingAnswer | None = None
    status: int = CLIENT_GONE
    began: float = field(default_factory=time.monotonic)

    def line(self, scope: Scope) -> str:
        """One line without anything that was said; a path is logged as it was sent."""
        path = scope.get("raw_path", b"").decode("latin-1")
        parts = [f"{scope['method']} {path} {self.status}", f"id={self.id}"]
        if self.pending:
            parts.append(f"version={self.pending.version_id or '-'}")
            if answer := self.pending.answer:
                parts += [
                    f"prompt_tokens={answer.prompt_tokens}",
                    f"completion_tokens={answer.completion_tokens}",
                    f"finish={answer.finish_reason}",
                ]
        return " ".join([*parts, f"seconds={time.monotonic() - self.began:.3f}"])


class _Logged:
    """Gives every request an id, and the log a line about it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        entry = Entry(given if GIVEN_ID.fullmatch(given) else f"req-{uuid.uuid4().hex}")
        scope.setdefault("state", {})["entry"] = entry

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry.status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = entry.id
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            is_routine = scope["path"] == OPEN_PATH and entry.status == 200
            logger.log(logging.DEBUG if is_routine else logging.INFO, "%s", entry.line(scope))


class _KeyCheck:
    """Lets only requests with the key pass, before anything of their body is read."""

    def __init__(self, app: ASGIApp, api_key: str | None) -> None:
        self._app = app
        self._key = api_key.encode() if api_key else b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == OPEN_PATH or self._fits(scope):
            await self._app(scope, receive, send)
            return
        error = KeyRefusedError(
            "the API key is missing or wrong. Send the server's API_KEY as "
            "'Authorization: Bearer KEY'."
        )
        await _refuse(error, scope, receive, send)

    def _fits(self, scope: Scope) -> bool:
        # Headers arrive as Latin-1, whatever bytes were sent.
        given = Headers(scope=scope).get("authorization", "")
        key = given.removeprefix("Bearer ").encode("latin-1")
        return not self._key or secrets.compare_digest(key, self._key)


class _BoundedBody:
    """Reads a whole body before the app runs, and refuses one that is too large or too slow."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._require_small(int(Headers(scope=scope).get("content-length", 0)))
            body = await self._read(receive)
        except RequestError as error:
            await _refuse(error, scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The body, or None where the client left before its end."""
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    self._require_small(len(body))
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise BodyTooSlowError(
                f"the body did not arrive within {BODY_SECONDS:.0f} seconds."
            ) from None

    def _require_small(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise BodyTooLargeError(
                f"the body has more than the {self._max_bytes // MB} MB that this server reads. "
                "Send less, or raise serving.max_body_mb."
            )


class _Guarded:
    """Answers what no route foresaw, inside the log and the origins that a response needs."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False

        async def sending(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            if is_begun or scope["type"] != "http":
                raise
            await JSONResponse(body_of(error), 500)(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, then whatever comes next."""
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Any:
        return unread.pop() if unread else await receive()

    return receiving


async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without the body. A client that is still sending one could not read the answer if the
    connection were closed at once."""
    headers = Headers(scope=scope)
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    response = JSONResponse(body_of(error), error.status)
    if not has_body:
        await response(scope, receive, send)
        return
    response.headers["connection"] = "close"
    start = {"status": response.status_code, "headers": response.raw_headers}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body", False):
                pass
    await send({"type": "http.response.body", "body": b"", "more_body": False})
