"""Lets only requests with a key pass, before anything of their body is read, and only so many."""

import json
import logging
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_factory.inference.question import RequestError
from llama_factory.serving.access import NOBODY, OPEN_PATHS, ApiKey, scopes_of
from llama_factory.serving.error_responses import body_of
from llama_factory.serving.errors import KeyRefusedError, KeysUnreadableError, ScopeMissingError
from llama_factory.serving.keys import KeyRing
from llama_factory.serving.limits import KeyLimits
from llama_factory.serving.refusal import refuse

logger = logging.getLogger(__name__)

EVENTS = "text/event-stream"


@dataclass(frozen=True)
class KeyAccess:
    """The keys that get in, and what each has left."""

    ring: KeyRing
    limits: KeyLimits


class KeyCheck:
    """Knows whose key a request comes with; `state.key` is that key from here on."""

    def __init__(self, app: ASGIApp, access: KeyAccess) -> None:
        self._app = app
        self._ring = access.ring
        self._limits = access.limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            key = state["key"] = self._key(scope)
            if "entry" in state:
                state["entry"].key_id = key.name
            self._limits.admit(key)
        except RequestError as error:
            headers = self._limits.headers(state["key"]) if "key" in state else None
            await refuse(error, scope, receive, send, headers=headers)
            return
        if key is NOBODY:
            await self._app(scope, receive, send)
        else:
            await self._while_it_holds(key, scope, receive, send)

    def _key(self, scope: Scope) -> ApiKey:
        path = scope["path"]
        if path in OPEN_PATHS or not self._ring.is_required:
            return NOBODY
        headers = Headers(scope=scope)
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if not scheme:  # Anthropic's clients
            scheme, secret = "bearer", headers.get("x-api-key", "")
        key = self._ring.owner(secret.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            if secret and self._ring.problem:
                raise KeysUnreadableError("the server's file of keys is damaged; its log says how.")
            raise KeyRefusedError(
                "the API key is missing or wrong. Send a key of this server as "
                "'Authorization: Bearer KEY'."
            )
        if not key.may_ask(path):
            needed = " or ".join(f"'{each}'" for each in scopes_of(path))
            raise ScopeMissingError(
                f"key '{key.name}' has the scopes {', '.join(key.scopes) or 'none'}; this needs "
                f"{needed}. Use another key."
            )
        return key

    async def _while_it_holds(
        self, key: ApiKey, scope: Scope, receive: Receive, send: Send
    ) -> None:
        gate = _Gate(self._ring, self._limits, key, send)
        try:
            await self._app(scope, receive, gate.send)
        except _RevokedError:
            logger.info("key '%s' was revoked in the middle of an answer, which ends", key.name)
        if gate.is_refused:
            await refuse(_revoked(), scope, receive, send)


class _RevokedError(Exception):
    """Ends the app's work on a stream that is over."""


def _revoked() -> KeyRefusedError:
    return KeyRefusedError("the API key was revoked.")


class _Gate:
    """Passes a response on while its key holds.

    Attributes:
        is_refused: nothing was sent, since the key ended before the answer began.
    """

    def __init__(self, ring: KeyRing, limits: KeyLimits, key: ApiKey, send: Send) -> None:
        self._ring = ring
        self._limits = limits
        self._key = key
        self._send = send
        self._is_stream = False
        self.is_refused = False

    async def send(self, message: Message) -> None:
        """See ASGI."""
        if self.is_refused:
            return
        if message["type"] == "http.response.start":
            self._begin(message)
        elif self._is_stream and message.get("body") and not self._ring.holds(self._key):
            event = f"data: {json.dumps(body_of(_revoked()))}\n\ndata: [DONE]\n\n"
            await self._send({"type": "http.response.body", "body": event.encode()})
            raise _RevokedError
        if not self.is_refused:
            await self._send(message)

    def _begin(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        self.is_refused = not self._ring.holds(self._key)
        self._is_stream = headers.get("content-type", "").startswith(EVENTS)
        headers.update(self._limits.headers(self._key))
