"""The page's app: its routes, what every request passes, and the API beside it."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from llama_factory.core.errors import FactoryError
from llama_factory.versions.workspace import PathLike
from llama_factory.web.guard import PageGuard
from llama_factory.web.links import path_of
from llama_factory.web.pages import render
from llama_factory.web.routes import (
    chat,
    compare,
    data,
    events,
    folder,
    login,
    monitor,
    overview,
    pairs,
    review,
    rounds,
    settings,
    static,
    train,
    versions,
)
from llama_factory.web.sentences import translate_sentence
from llama_factory.web.site import Site, visit_of

logger = logging.getLogger(__name__)

OF_SITE = (login, static)
"""Routes of the page as a whole."""
OF_WORKSPACE = (
    *(overview, rounds, versions, compare, chat, pairs, data, review),
    *(train, monitor, settings, events),
)
"""Routes of one workspace: below `/`, or `/w/NAME/` where several are shown."""
OF_FOLDER = (folder, train, events)
"""Routes of a folder with workspaces and single runs."""
API = ("/v1", "/health", "/ready", "/metrics", "/openapi.json")
"""Paths that the API answers."""
MAX_BODY_BYTES = 4_000_000
"""Of a form; a route that takes files says so itself."""


def create_web(
    place: PathLike,
    *,
    has_api: bool = False,
    is_network: bool = False,
    hosts: tuple[str, ...] = (),
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> FastAPI:
    """The page of a workspace, or of all workspaces below a folder. No model is loaded.

    Args:
        place: the workspace or the folder.
        has_api: whether the API answers beside it.
        is_network: whether others than this machine reach it, so that they must log in.
        hosts: names by which it may be asked without a log-in, besides this machine's own.
        clock: gives the time, with a zone.

    Returns:
        The app; its `state.site` is what its pages share.
    """
    site = Site(Path(place), has_api, is_network, hosts, clock)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, max_body_size=MAX_BODY_BYTES)
    app.state.site = site
    prefix = "" if site.is_workspace else "/w/{workspace}"
    for subject in OF_SITE:
        app.include_router(subject.router)
    for subject in OF_WORKSPACE:
        app.include_router(subject.router, prefix=prefix)
    for subject in () if site.is_workspace else OF_FOLDER:
        app.include_router(subject.router)
    app.add_exception_handler(FactoryError, _refused)
    app.add_exception_handler(HTTPException, _no_page)
    app.add_exception_handler(RequestValidationError, _wrong_form)
    app.add_middleware(PageGuard, site=site)
    return app


def beside_api(page: FastAPI) -> Callable[[ASGIApp], ASGIApp]:
    """Puts the page around the API: each path goes to the one that answers it."""

    def wrap(api: ASGIApp) -> ASGIApp:
        page.state.site.api = api

        async def both(scope: Scope, receive: Receive, send: Send) -> None:
            asks_api = scope["type"] != "http" or is_of_api(path_of(scope))
            await (api if asks_api else page)(scope, receive, send)

        return both

    return wrap


def is_of_api(path: str) -> bool:
    """Whether a path is the API's."""
    return any(path == each or path.startswith(f"{each}/") for each in API)


def _refused(request: Request, error: Exception) -> Response:
    """What a person can mend; where the folder lies on the machine is not theirs to know."""
    visit = visit_of(request)
    folder, said = visit.site.folder, translate_sentence(visit.language, str(error))
    shown = said.replace(f"{folder}: ", "").replace(str(folder), folder.name)
    return render(request, "problem", status=409, problem=shown)


def _no_page(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return render(request, "problem", status=error.status_code, problem=str(error.detail))


def _wrong_form(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(map(str, each['loc'][1:]))}: {each['msg']}" for each in error.errors()]
    return render(request, "problem", status=422, problem="; ".join(found))
