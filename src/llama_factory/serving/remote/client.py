"""HTTP to a server that makes tokens: one pool of connections, time limits, events as they come."""

import json
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llama_factory.core.errors import ServingError
from llama_factory.serving.errors import EngineDownError

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
DONE = "[DONE]"
SHOWN = 300
"""Characters of another server's message that are repeated."""


class RefusedError(ServingError):
    """The other server understood and refused.

    Attributes:
        status: of HTTP.
        param: the field that it names.
    """

    def __init__(self, message: str, status: int, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


@dataclass(frozen=True)
class EngineClient:
    """Calls to one server, over connections that are kept. For one event loop.

    Attributes:
        url: what paths are added to.
        key: sent as a bearer token; empty sends none.
        silence_seconds: longest wait for the next part of an answer.
    """

    url: str
    key: str
    silence_seconds: float
    _http: "httpx.AsyncClient"

    @staticmethod
    def to(url: str, key: str, silence_seconds: float) -> "EngineClient":
        """A client that connects when it is first used."""
        import httpx

        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
        times = httpx.Timeout(silence_seconds, connect=CONNECT_SECONDS, pool=None)
        # No proxy of the environment comes between this server and its engine.
        http = httpx.AsyncClient(headers=headers, limits=limits, timeout=times, trust_env=False)
        return EngineClient(url, key, silence_seconds, http)

    async def get(self, path: str, *, seconds: float) -> Any:
        """The JSON at a path, or its text where it is none.

        Raises:
            EngineDownError: nobody answers in time, or the server fails.
            RefusedError: it refuses.
        """
        with _reachable(self.url):
            response = await self._http.get(self.url + path, timeout=seconds)
        return _checked(response.status_code, response.text)

    async def post(
        self, path: str, body: Mapping[str, Any], *, seconds: float, failing: int = 500
    ) -> Any:
        """The same for an answer to a body; lower statuses than `failing` are refusals."""
        with _reachable(self.url):
            response = await self._http.post(self.url + path, json=body, timeout=seconds)
        return _checked(response.status_code, response.text, failing)

    async def events(
        self, path: str, body: Mapping[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a streamed answer; closing it closes the connection, which cancels.

        Raises:
            EngineDownError: it is not there, fails, falls silent, or ends before the last event.
            RefusedError: it refuses.
        """
        with _reachable(self.url):
            async with self._http.stream("POST", self.url + path, json=body) as response:
                if response.status_code != 200:
                    _checked(
                        response.status_code, (await response.aread()).decode(errors="replace")
                    )
                async for line in response.aiter_lines():
                    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                    if data == DONE:
                        return
                    if data:
                        yield _event(data)
        raise EngineDownError("the engine ended an answer before it was whole. Ask again.")

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


class _reachable:  # noqa: N801  # a context manager without a generator: it lies in a generator
    """Turns what httpx raises into an error that tells clients to come again."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: BaseException | None, __: Any) -> None:
        import httpx

        if isinstance(error, httpx.TimeoutException):
            raise EngineDownError(
                f"the engine does not answer ({type(error).__name__})."
            ) from error
        if isinstance(error, httpx.HTTPError | httpx.StreamError):
            raise EngineDownError(f"the engine is gone ({type(error).__name__}).") from error


def _event(data: str) -> dict[str, Any]:
    try:
        event: dict[str, Any] = dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise EngineDownError("the engine sent what is no JSON. Ask again.") from error
    if failure := event.get("error"):
        status = failure.get("code") if isinstance(failure, dict) else None
        _checked(status if isinstance(status, int) else 500, data)
    return event


def _checked(status: int, text: str, failing: int = 500) -> Any:
    """What a body holds.

    Raises:
        EngineDownError: the status is one of a server that fails.
        RefusedError: it is one of a request that is wrong.
    """
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    if status < 400:
        return body
    message, param = _refusal(body)
    if status >= failing:  # what went wrong there may name paths: it is for the log alone
        logger.error("the engine failed with status %d: %s", status, message)
        raise EngineDownError(f"the engine failed with status {status}. Ask again.")
    raise RefusedError(message, status, param)


def _refusal(body: Any) -> tuple[str, str | None]:
    """The message of an error in OpenAI's shape or FastAPI's, and the field that it names."""
    inner = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    if not isinstance(inner, dict):
        return str(inner)[:SHOWN], None
    param = inner.get("param")
    return str(inner.get("message", inner))[:SHOWN], param if isinstance(param, str) else None
