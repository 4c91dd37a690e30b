"""Who asks, and which scope each route needs. No files, no HTTP."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field

Scope = Literal["chat", "feedback", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")

OPEN_PATHS = frozenset({"/health", "/ready"})
"""What watches a server holds no key, and reads here no more than whether it works."""

SCOPE_OF: dict[str, Scope] = {
    "/v1/feedback": "feedback",
    "/v1/load_lora_adapter": "admin",
    "/v1/unload_lora_adapter": "admin",
    "/metrics": "metrics",
}
"""Paths that need another scope than `chat`. Whoever may do everything may read the numbers."""

DESCRIPTION_PATH = "/openapi.json"
"""Any key may read what can be asked."""


@dataclass(frozen=True)
class ApiKey:
    """One client's access.

    Attributes:
        name: what the log, feedback and lists call it.
        scopes: what may be asked with it.
        requests_a_minute: more are refused for a while; None for no limit.
        tokens_a_day: of prompts and answers together; None for no limit.
        sha256: of what the client sends, as hex.
        created: UTC time, ISO 8601.
        revoked: when it ended; empty while it is active.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # where it is read from a file

    name: str
    scopes: tuple[Scope, ...] = SCOPES
    requests_a_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_a_day: Annotated[int, Field(ge=1)] | None = None
    sha256: str = ""
    created: str = ""
    revoked: str = ""

    @property
    def is_active(self) -> bool:
        """Whether it gets in."""
        return not self.revoked

    def may_ask(self, path: str) -> bool:
        """Whether one of its scopes allows a path."""
        return path == DESCRIPTION_PATH or any(scope in self.scopes for scope in scopes_of(path))


NOBODY = ApiKey("")
"""Whoever asks a server that asks for no key."""


def scopes_of(path: str) -> tuple[Scope, ...]:
    """The scopes of which one is needed for a path; a path that is unknown needs that of chat."""
    parent = path.rstrip("/")
    while parent and parent not in SCOPE_OF:
        parent = parent.rpartition("/")[0]
    scope = SCOPE_OF.get(parent, "chat")
    return (scope, "admin") if scope == "metrics" else (scope,)
