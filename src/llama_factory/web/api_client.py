"""Asks the API that answers beside the page, within the process: for browsers without a script."""

from dataclasses import dataclass
from typing import Any

import httpx
from starlette.types import ASGIApp

HOST = "http://127.0.0.1"


@dataclass(frozen=True)
class ApiReply:
    """What the API answered.

    Attributes:
        status: of HTTP.
        body: plain values.
    """

    status: int
    body: dict[str, Any]

    @property
    def problem(self) -> str:
        """What is wrong, in the API's words; empty where nothing is."""
        if self.status < 400:
            return ""
        error = self.body.get("error")
        text = error.get("message") if isinstance(error, dict) else None
        return str(text or f"the API answered with status {self.status}.")


async def ask_api(
    api: ASGIApp, path: str, body: dict[str, Any] | None = None, key: str = ""
) -> ApiReply:
    """Send one request and wait for the whole answer.

    Args:
        api: the app.
        path: below `/v1/`.
        body: of a POST; None for a GET.
        key: of the API; empty where it asks for none.
    """
    # A key with a line break or without meaning in ASCII would be no header.
    headers = {"authorization": f"Bearer {key}"} if key.isascii() and key.isprintable() else {}
    transport = httpx.ASGITransport(api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=HOST, timeout=None) as client:
        method = "GET" if body is None else "POST"
        answer = await client.request(method, f"/v1/{path}", json=body, headers=headers)
    try:
        values = answer.json()
    except ValueError:
        values = {}
    return ApiReply(answer.status_code, values if isinstance(values, dict) else {})
