"""Errors as OpenAI's clients read them: a status and `{"error": {...}}`, never a traceback."""

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from llama_factory.core.errors import FactoryError
from llama_factory.inference.question import RequestError
from llama_factory.serving.errors import KeyRefusedError

logger = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status for the access log where nobody is left to read it; nginx uses this number."""


def install(app: FastAPI) -> None:
    """Answer every error of an app in OpenAI's shape."""
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(FactoryError, _failed)


def headers_of(error: RequestError) -> dict[str, str]:
    """What clients do next: when to ask again, and how to say who they are."""
    headers: dict[str, str] = {}
    if seconds := getattr(error, "retry_seconds", None):
        headers["Retry-After"] = str(seconds)
    if isinstance(error, KeyRefusedError):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def body_of(error: Exception) -> dict[str, Any]:
    """What a client is told of an error; what it may not know goes to the log."""
    if isinstance(error, RequestError):
        return _body(str(error), error.type, param=error.place, code=error.code)
    if isinstance(error, FactoryError):
        logger.error("a request failed: %s", error)
        text = "this version cannot be served; the server's log says why. Ask for another one."
        return _body(text, "server_error", code="version_unusable")
    logger.error("a request failed", exc_info=error)
    return _body("the server failed to answer; its log says why.", "server_error")


def _body(
    message: str,
    kind: str = "invalid_request_error",
    *,
    param: str | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    told = {"message": _sendable(message), "param": param and _sendable(param)}
    return {"error": {**told, "type": kind, "code": code}}


def _sendable(text: str) -> str:
    """Text with halves of characters, which no response can carry, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(body_of(error), error.status, headers_of(error))


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse(body_of(error), 500)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    problem = error.errors()[0]
    reason = problem["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in problem["loc"][1:])
    if problem["type"] == "half_character":
        return JSONResponse(_body(f"{reason}.", param=problem["ctx"]["place"]), 400)
    if problem["type"] == "json_invalid" or not place:
        return JSONResponse(_body(f"the body is no JSON object of a request: {reason}."), 400)
    seen = f" (seen: {_short(problem['input'])})" if problem["type"] != "missing" else ""
    return JSONResponse(_body(f"{place}: {reason}{seen}.", param=place), 400)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.url.path}: {error.detail}."
    body = _body(f"{what} There are {', '.join(request.app.state.routes)}.")
    return JSONResponse(body, error.status_code, error.headers)


async def _client_gone(_: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
