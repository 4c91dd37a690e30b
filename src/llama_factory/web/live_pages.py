"""Pages that many follow at the same time: their bodies are made once for all who may see the same.

A body knows nothing of a visitor but the language and the role; the token that its forms carry is
put in for each one, and the frame around it (menu, name, notice) is made for each one.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from llama_factory.versions.workspace import Workspace
from llama_factory.web.links import path_of
from llama_factory.web.pages import fill, of_everybody, render, words
from llama_factory.web.site import visit_of

TOKEN = secrets.token_hex(32)
"""Stands for the visitor's token in bodies; nobody can write it into a row."""
PART = "x-part"
"""A header of the page's script: it has the frame, and wants what changed of the body."""


@dataclass(frozen=True)
class LiveBody:
    """What of a page is shared.

    Attributes:
        template: its name; `NAME.title` is the text of the page's title.
        topics: of the files that it depends on, see `live.TOPICS`.
        read: gives the values for the template.
        asked: what the address says besides its path.
    """

    template: str
    topics: Sequence[str]
    read: Callable[[], Mapping[str, Any]]
    asked: str = ""


def render_live(request: Request, workspace: Workspace, body: LiveBody) -> Response:
    """The answer of a page whose body is shared: all of it, or the part that the script wants."""
    if asks_part(request):
        return render_part(request, workspace, body)
    text = Markup(_fill(request, workspace, body))
    title = words(request, f"{body.template}.title")
    return render(request, "live", page=body.template, title=title, body=text)


def asks_part(request: Request) -> bool:
    """Whether the page's script asks, which has the frame already."""
    return PART in request.headers


def render_part(request: Request, workspace: Workspace, body: LiveBody) -> Response:
    """The shared body alone, or a word that the browser has it already."""
    text = _fill(request, workspace, body)
    tag = f'"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"'
    sent = request.headers.get("if-none-match", "").removeprefix("W/")  # as proxies that pack say
    if sent == tag:
        return Response(status_code=304, headers={"etag": tag})
    return HTMLResponse(text, headers={"etag": tag})


def _fill(request: Request, workspace: Workspace, body: LiveBody) -> str:
    """The body with the visitor's token in its forms."""
    visit = visit_of(request)
    assert visit.user is not None  # the guard lets nobody else pass
    role, may = visit.user.role, visit.user.may

    def make() -> str:
        known = {**of_everybody(request), "may": may, "csrf": TOKEN}
        return fill(body.template, {**known, **body.read()})

    place = f"{path_of(request.scope)} {body.asked}"
    name = f"body {body.template} {place} {visit.language} {role}"
    shared: str = visit.site.shared.read(workspace, name, body.topics, make)
    return shared.replace(TOKEN, visit.token)
