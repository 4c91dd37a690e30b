"""What every request passes before its body is parsed: log, origin, key, size. ASGI, no routes."""

import asyncio
import logging
import re
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
from llama_factory.serving.access import OPEN_PATHS
from llama_factory.serving.answering import Answering
from llama_factory.serving.bodies import BodyNotPlainError, require_plain
from llama_factory.serving.error_responses import CLIENT_GONE, body_of
from llama_factory.serving.errors import BodyTooLargeError, BodyTooSlowError
from llama_factory.serving.key_check import KeyAccess, KeyCheck
from llama_factory.serving.metrics import Metrics
from llama_factory.serving.refusal import refuse
from llama_factory.serving.settings import ServingSettings

logger = logging.getLogger(__name__)

REQUEST_ID = "x-request-id"
GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

BODY_SECONDS = 30.0
"""How long a body may take to arrive."""

MIB = 1024 * 1024


def install(app: FastAPI, settings: ServingSettings, access: KeyAccess, metrics: Metrics) -> None:
    """Put what every request passes before an app's routes; what is added last is passed first."""
    app.add_middleware(_Guarded)
    app.add_middleware(_BoundedBody, max_bytes=settings.max_body_mb * MIB)
    app.add_middleware(KeyCheck, access=access)
    if settings.allowed_origins:
        # Keys travel in a header of their own, so that browsers need no credentials mode.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[REQUEST_ID],
        )
    app.add_middleware(_Logged, metrics=metrics)


@dataclass
class Entry:
    """What the log says of one request.

    Attributes:
        id: sent back as `x-request-id`.
        answering: the answers, where some were asked for.
        key_id: name of the key that the request came with; empty where none was asked for.
        status: of the response.
    """

    id: str
    answering: Answering | None = None
    key_id: str = ""
    status: int = CLIENT_GONE
    began: float = field(default_factory=time.monotonic)

    def line(self, scope: Scope) -> str:
        """One line without anything that was said; a path is logged as it was sent."""
        path = scope.get("raw_path", b"").decode("latin-1")
        parts = [f"{scope['method']} {path} {self.status}", f"id={self.id}"]
        if self.key_id:
            parts.append(f"key={self.key_id}")
        if self.answering:
            parts.append(f"version={self.answering.version_id or '-'}")
            parts += [f"{name}={value}" for name, value in self.answering.counts().items()]
        return " ".join([*parts, f"seconds={time.monotonic() - self.began:.3f}"])


class _Logged:
    """Gives every request an id, the log a line about it, and counts it."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

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
            is_routine = scope["path"] in OPEN_PATHS and entry.status == 200
            route = getattr(scope.get("route"), "path", "")
            version_id = entry.answering.version_id if entry.answering else ""
            self._metrics.count_request(route, entry.status, version_id)
            logger.log(logging.DEBUG if is_routine else logging.INFO, "%s", entry.line(scope))


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
            headers = Headers(scope=scope)
            _require_one_length(headers)
            self._require_small(int(headers.get("content-length", 0)))
            body = await self._read(receive)
            require_plain(body or b"")
        except RequestError as error:
            await refuse(error, scope, receive, send)
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
                f"the body has more than the {self._max_bytes // MIB} MiB that this server reads. "
                "Send less, or raise serving.max_body_mb."
            )


def _require_one_length(headers: Headers) -> None:
    """Refuse what this server and one before it could cut into requests at different places.

    Raises:
        BodyNotPlainError: the body has both a length and chunks.
    """
    if "content-length" in headers and "transfer-encoding" in headers:
        raise BodyNotPlainError(
            "the request has both Content-Length and Transfer-Encoding. Send one of them."
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
