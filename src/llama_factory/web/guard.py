"""What every request of the page passes: host, origin, session, log-in. ASGI, no routes."""

import ipaddress
from dataclasses import replace
from http.cookies import CookieError, SimpleCookie
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llama_factory.core.errors import ServingError
from llama_factory.serving.users import PageUser
from llama_factory.web.links import path_of, root_of
from llama_factory.web.site import LOCAL, Site, Visit
from llama_factory.web.strings import choose_language

OPEN = ("/login", "/static/", "/preferences")
"""Paths that need no log-in."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-src 'self'; frame-ancestors 'self'; "
    "base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
THEMES = ("auto", "light", "dark")
PREFERENCES = "lf_preferences"


class PageGuard:
    """Lets only those requests pass that may; `state.visit` is the visitor from here on."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app = app
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _refusal(self._site, scope, headers)
        if answer is not None:
            await answer(scope, receive, _with_headers(send, ()))
            return
        visit, cookies = self._visit(scope, headers)
        scope.setdefault("state", {})["visit"] = visit
        asked = visit.user is None and not path_of(scope).startswith(OPEN)
        app = _login(scope) if asked else self._app
        await app(scope, receive, _with_headers(send, cookies))

    def _visit(self, scope: Scope, headers: Headers) -> tuple[Visit, tuple[str, ...]]:
        """The visitor, and cookies that the answer sets."""
        cookies = _cookies(headers)
        sessions, users = self._site.sessions, _users(self._site)
        sent = cookies.get(sessions.cookie, "")
        named = next((each for each in users if each.name == sessions.name_in(sent)), None)
        session = sessions.read(sent, named)
        user = named if session is not None else None
        if not self._site.asks_login:
            user = LOCAL
        language, _, theme = cookies.get(PREFERENCES, "").partition(".")
        visit = Visit(
            self._site,
            session or sessions.begin(),
            user,
            choose_language(language, headers.get("accept-language", "")),
            theme if theme in THEMES else THEMES[0],
            is_secure="https" in (scope["scheme"], headers.get("x-forwarded-proto", "")),
        )
        return visit, () if session else (session_cookie(visit, None),)


def session_cookie(visit: Visit, user: PageUser | None) -> str:
    """The header that gives a visitor its session."""
    sessions = visit.site.sessions
    session = replace(visit.session, user=user.name if user else "")
    parts = [f"{sessions.cookie}={sessions.write(session, user)}", "HttpOnly", "SameSite=Lax"]
    return "; ".join([*parts, "Path=/", *(["Secure"] if visit.is_secure else [])])


def _users(site: Site) -> tuple[PageUser, ...]:
    """Nobody where the file is damaged."""
    try:
        return site.users
    except ServingError:
        return ()


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        parsed = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return {}
    return {name: each.value for name, each in parsed.items()}


def _refusal(site: Site, scope: Scope, headers: Headers) -> Response | None:
    """The answer to a request that another page's script may have made."""
    host = headers.get("host", "")
    # A proxy may ask by a name of this machine for people who are elsewhere.
    asked_as = [host, *filter(None, [headers.get("x-forwarded-host")])]
    stranger = next((each for each in asked_as if not _is_own_name(each, site.hosts)), None)
    if not site.asks_login and stranger is not None:
        return PlainTextResponse(
            f"This page asks for no log-in, so it answers only as localhost, not as "
            f"{stranger[:100]!r}. Add a user (llama-factory web FOLDER users add NAME), or name "
            "the host with --host_name.\n",
            421,
        )
    if scope["method"] in ("GET", "HEAD"):
        return None
    if scope["method"] != "POST" or not _is_same_origin(headers, host):
        return PlainTextResponse("This change did not come from this page.\n", 403)
    return None


def _is_own_name(host: str, known: tuple[str, ...]) -> bool:
    """A name that no other site can have: rebinding gives another site's name our address."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name in ("localhost", *known)


def _is_same_origin(headers: Headers, host: str) -> bool:
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:
        return fetch_site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True  # no browser; the token is asked for all the same
    return urlsplit(origin).netloc in (host, headers.get("x-forwarded-host", host))


def _login(scope: Scope) -> Response:
    if scope["method"] == "GET" and "text/html" in Headers(scope=scope).get("accept", ""):
        path = path_of(scope).lstrip("/")
        wanted = quote(path, safe="/~") if len(path) < 500 else ""
        return RedirectResponse(f"{root_of(scope)}login?then={wanted}", 303)
    return PlainTextResponse("Log in first.\n", 401)


def _with_headers(send: Send, cookies: tuple[str, ...]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            is_set = any(each.startswith("lf_session_") for each in headers.getlist("set-cookie"))
            for cookie in () if is_set else cookies:
                headers.append("set-cookie", cookie)
        await send(message)

    return sending
