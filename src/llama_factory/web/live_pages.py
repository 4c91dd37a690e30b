"""Pages that many follow at the same time: their bodies are made once for all who may see the same.

A body knows nothing of a visitor but the language and the role; the token that its forms carry is
put in for each one, and the frame around it (menu, name, notice) is made for each one.
"""

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from llama_factory.versions.workspace import Workspace
from llama_factory.web.links import path_of
from llama_factory.web.pages import fill, of_everybody, render, words
from llama_factory.web.site import Visit, visit_of

TOKEN = secrets.token_hex(32)
"""Stands for the visitor's token in bodies; nobody can write it into a row."""
ALONE = "x-part"
"""A header of the page's script: it has the frame, and wants what changed of the body."""


def render_live(
    request: Request,
    workspace: Workspace,
    template: str,
    topics: Sequence[str],
    read: Callable[[], Mapping[str, Any]],
    *,
    asked: str = "",
) -> Response:
    """The answer of a page whose body is shared.

    Args:
        request: that is answered.
        workspace: that is shown.
        template: of the body; its title is the text `NAME.title`.
        topics: of the files that the body depends on, see `live.TOPICS`.
        read: gives the values for the template.
        asked: what the address says besides its path.
    """
    visit = visit_of(request)
    assert visit.user is not None  # the guard lets nobody else pass
    who = f"{visit.language} {visit.user.role}"
    name = f"body {template} {path_of(request.scope)} {asked} {who}"
    making = partial(_body, request, visit, template, read)
    shared: str = visit.site.shared.read(workspace, name, topics, making)
    body = shared.replace(TOKEN, visit.token)
    if ALONE in request.headers:
        return _alone(request, body)
    title = words(request, f"{template}.title")
    return render(request, "live", page=template, title=title, body=Markup(body))


def _body(
    request: Request, visit: Visit, template: str, read: Callable[[], Mapping[str, Any]]
) -> str:
    assert visit.user is not None
    known = of_everybody(request) | {"may": visit.user.may, "csrf": TOKEN}
    return fill(template, known | dict(read()))


def _alone(request: Request, body: str) -> Response:
    """The body, or a word that the browser has it already."""
    tag = f'"{hashlib.blake2b(body.encode(), digest_size=16).hexdigest()}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    return HTMLResponse(body, headers={"etag": tag})
