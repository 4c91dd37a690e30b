"""Templates to answers: what every template knows, and how values are written in them."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import quote, unquote

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from llama_factory.core import __version__
from llama_factory.core.errors import FactoryError
from llama_factory.evaluation.wording import interval, number
from llama_factory.serving.users import Role
from llama_factory.web import problems
from llama_factory.web.forms import help_of
from llama_factory.web.links import base_of, local, path_of, root_of
from llama_factory.web.sentences import translate_sentence
from llama_factory.web.site import visit_of
from llama_factory.web.strings import translate

TEMPLATES = Path(__file__).parent / "templates"
NOTICE = "lf_notice"
MOST_NOTICE = 1500
NAV = (
    *("overview", "rounds", "versions", "chat", "data", "review"),
    *("train", "monitor", "settings"),
)
"""Pages of a workspace as the menu lists them; the overview is the workspace's first page."""


T = TypeVar("T")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": interval, "size": _size, "coded": _coded}
    return environment


def render(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """The answer of a page.

    Args:
        request: that is answered.
        template: its name without `.html.jinja`.
        status: of the answer.
        values: for the template.
    """
    visit = visit_of(request)
    shown = of_everybody(request) | {
        "visit": visit,
        "here": path_of(request.scope).lstrip("/"),
        "csrf": visit.token,
        "may": visit.may,
        "nav": NAV,
        "page": template,
        "has_workspace": visit.site.is_workspace or "workspace" in request.path_params,
        "program": __version__,
        "helped": partial(help_of, visit.language),
        "notice": unquote(request.cookies.get(NOTICE, "")),
    }
    answer = HTMLResponse(fill(template, shown | values), status)
    if NOTICE in request.cookies:
        answer.delete_cookie(NOTICE)
    return answer


def of_everybody(request: Request) -> dict[str, Any]:
    """What a template knows whoever asks, of the address and the visitor's language alone."""
    visit, workspace = visit_of(request), request.path_params.get("workspace")
    text = partial(_text, visit.language)
    return {
        "t": text,
        "s": partial(translate_sentence, visit.language),
        "ago": partial(_ago, text, visit.site.clock()),
        "root": root_of(request.scope),
        "base": base_of(request.scope, workspace),
        "name": _name(request),
    }


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The text of a template; whatever is no markup is escaped.

    Args:
        template: its name without `.html.jinja`.
        values: all that it knows.
    """
    return _environment().get_template(f"{template}.html.jinja").render(values)


def back(request: Request, to: str, notice: str = "") -> RedirectResponse:
    """The answer to a change: the page to look at, with a line about what was done.

    Args:
        request: that is answered.
        to: a link from the workspace's first page.
        notice: in words.
    """
    visit_of(request).site.shared.changed()
    base = base_of(request.scope, request.path_params.get("workspace"))
    answer = RedirectResponse(f"{base}{local(to)}", 303)
    if notice:
        short = quote(notice[:MOST_NOTICE])
        answer.set_cookie(NOTICE, short, max_age=60, httponly=True, samesite="lax")
    return answer


def words(request: Request, key: str, **values: object) -> str:
    """A text of the catalogue in the visitor's language."""
    return _text(visit_of(request).language, key, **values)


def attempt(read: Callable[[], T]) -> tuple[T | None, str]:
    """What can be read, or why not: one damaged file must not hide the rest of a page."""
    try:
        return read(), ""
    except FactoryError as error:
        return None, str(error)


async def _check_token(request: Request) -> None:
    visit = visit_of(request)
    sent = request.headers.get("x-csrf-token")
    if sent is None and _is_form(request):
        sent = str((await request.form()).get("csrf", ""))
    if not visit.site.sessions.is_token(visit.session, sent or ""):
        raise HTTPException(403, words(request, "frame.stale"))


has_token: Any = Depends(_check_token)
"""Lets a change pass whose form came from this page."""


def may(role: Role) -> Any:
    """Lets a change pass if the visitor has the role and the form came from this page."""

    async def check(request: Request) -> None:
        await _check_token(request)
        if not visit_of(request).may(role):
            raise HTTPException(403, words(request, "frame.not_allowed", role=role))

    return Depends(check)


def needs(role: Role) -> Any:
    """Lets a visitor look who has at least this role."""

    def check(request: Request) -> None:
        if not visit_of(request).may(role):
            raise HTTPException(403, words(request, "frame.not_allowed", role=role))

    return Depends(check)


def who(request: Request) -> str:
    """Who makes a change, for notes and logs."""
    user = visit_of(request).user
    return user.name if user else ""


Who = Annotated[str, Depends(who)]


def _is_form(request: Request) -> bool:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind in ("application/x-www-form-urlencoded", "multipart/form-data")


def _text(language: str, key: str, **values: object) -> str:
    return translate(language, key, values)


def _name(request: Request) -> str:
    site, name = visit_of(request).site, request.path_params.get("workspace")
    return name.replace("~", "/") if name else site.folder.name


def _ago(text: Callable[..., str], now: datetime, written: str) -> str:
    """How long ago a time was; the time itself where it is no time."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        return written
    seconds = (now - moment.replace(tzinfo=moment.tzinfo or UTC)).total_seconds()
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return text(f"frame.ago_{unit}", n=int(seconds // length))
    return text("frame.ago_now")


def _coded(text: str) -> Markup:
    """A text in which what stands between backquotes is code."""
    parts = enumerate(text.split("`"))
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else p for n, p in parts)


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def version_name(name: str) -> str:
    """A version's id as an address has it.

    Raises:
        HTTPException: it is none.
    """
    if not re.fullmatch(r"v\d{4,9}", name):
        raise HTTPException(404, problems.NO_VERSION(name=name[:40]))
    return name
