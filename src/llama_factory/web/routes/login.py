"""Log in, log out, language and theme."""

import math
from typing import Annotated, Literal

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from llama_factory.serving.users import find_user
from llama_factory.web import problems
from llama_factory.web.guard import PREFERENCES, session_cookie
from llama_factory.web.links import local, root_of
from llama_factory.web.pages import has_token, render, words
from llama_factory.web.site import Visit, damaged_users, visit_of

YEAR_SECONDS = 365 * 24 * 3600
router = APIRouter()


@router.get("/login")
def login_page(request: Request, then: str = "") -> Response:
    """The form."""
    problem = damaged_users(visit_of(request).site)
    return render(request, "login", then=local(then), problem=problem)


@router.post("/login", dependencies=[has_token])
def login(
    request: Request,
    user: Annotated[str, Form(max_length=200)],
    password: Annotated[str, Form(max_length=2000)],
    then: Annotated[str, Form()] = "",
) -> Response:
    """Begin a session of somebody's."""
    visit = visit_of(request)
    site = visit.site
    if wait := site.logins.wait(user):
        problem = words(request, "login.wait", seconds=math.ceil(wait))
        return render(request, "login", status=429, then=local(then), problem=problem)
    found = find_user(site.users, user, password)
    site.logins.note(user, is_right=found is not None)
    if found is None:
        problem = words(request, "login.wrong")
        return render(request, "login", status=403, then=local(then), problem=problem)
    answer = RedirectResponse(f"{root_of(request.scope)}{local(then)}", 303)
    fresh = Visit(site, site.sessions.begin(), found, visit.language, visit.theme, visit.is_secure)
    answer.headers.append("set-cookie", session_cookie(fresh, found))
    return answer


@router.post("/logout", dependencies=[has_token])
def logout(request: Request) -> Response:
    """End the session in this browser."""
    answer = RedirectResponse(f"{root_of(request.scope)}login", 303)
    answer.delete_cookie(visit_of(request).site.sessions.cookie)
    return answer


@router.post("/preferences", dependencies=[has_token])
def preferences(
    request: Request,
    language: Annotated[Literal["en", "zh", ""], Form()] = "",
    theme: Annotated[Literal["auto", "light", "dark", ""], Form()] = "",
    here: Annotated[str, Form()] = "",
) -> Response:
    """Another language or theme, kept in the browser."""
    visit = visit_of(request)
    answer = RedirectResponse(f"{root_of(request.scope)}{local(here)}", 303)
    value = f"{language or visit.language}.{theme or visit.theme}"
    answer.set_cookie(PREFERENCES, value, max_age=YEAR_SECONDS, httponly=True, samesite="lax")
    return answer


@router.get("/favicon.ico")
def icon() -> Response:
    """None; the page names its own."""
    raise HTTPException(404, problems.NO_FILE())
