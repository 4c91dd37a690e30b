"""An answer to a request whose body is not read."""

import asyncio
import contextlib
from collections.abc import Mapping

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from llama_factory.inference.question import RequestError
from llama_factory.serving.error_responses import body_of, headers_of

LINGER_SECONDS = 2.0
"""How long what a refused client still sends is read and dropped, so that it reads the answer."""


async def refuse(
    error: RequestError,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    headers: Mapping[str, str] | None = None,
) -> None:
    """Answer without the body. A client that is still sending one could not read the answer if the
    connection were closed at once."""
    asked = Headers(scope=scope)
    has_body = "transfer-encoding" in asked or asked.get("content-length", "0") != "0"
    response = JSONResponse(body_of(error), error.status, {**headers_of(error), **(headers or {})})
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
