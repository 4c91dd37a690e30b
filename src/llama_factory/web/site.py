"""What all pages share: the folder that is shown, who may look, and one request's visitor."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, HTTPException, Request
from starlette.types import ASGIApp

from llama_factory import oversee
from llama_factory.core import files
from llama_factory.core.errors import ServingError
from llama_factory.serving.users import FILE, LoginLimits, PageUser, Role, read_users
from llama_factory.versions.workspace import SETTINGS_FILE, Workspace
from llama_factory.web import problems
from llama_factory.web.live import Lookout
from llama_factory.web.sessions import Session, Sessions, read_secret
from llama_factory.web.shared import OF_LOOP, SharedReads
from llama_factory.web.workspaces import find_workspaces

if TYPE_CHECKING:
    from llama_factory.rounds.progress import RoundProgress
    from llama_factory.rounds.status import LoopStatus

LOCAL = PageUser("local", "operator", "", "", "")
"""Whoever sits at the machine of a page that asks for no log-in."""


@dataclass
class Site:
    """One page, for as long as it is served.

    Attributes:
        folder: a workspace, or a folder with workspaces somewhere below it.
        has_api: whether the API answers on the same port.
        is_network: whether others than this machine reach it.
        hosts: names by which it may be asked where nobody logs in; this machine's own besides.
        clock: gives the time, with a zone.
        is_closing: the server ends, so streams do.
        api: that answers beside the page; None where none does.
        num_streams: pages that are being followed.
        lookout: looks for what they follow.
        shared: what several visitors read.
    """

    folder: Path
    has_api: bool = False
    is_network: bool = False
    hosts: tuple[str, ...] = ()
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    is_closing: bool = False
    api: ASGIApp | None = None
    num_streams: int = 0
    lookout: Lookout = field(default_factory=Lookout)
    shared: SharedReads = field(default_factory=SharedReads)
    sessions: Sessions = field(init=False)
    logins: LoginLimits = field(init=False)
    _loops: dict[Path, Callable[[], "LoopStatus"]] = field(init=False, default_factory=dict)
    _rounds: dict[Path, Callable[[], "RoundProgress | None"]] = field(
        init=False, default_factory=dict
    )
    _users: tuple[object, tuple[PageUser, ...]] = field(init=False, default=(None, ()))

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.sessions = Sessions(read_secret(self.folder), time.time)
        self.logins = LoginLimits(time.monotonic)

    @property
    def is_workspace(self) -> bool:
        """Whether one workspace is shown, not a list of them."""
        return (self.folder / SETTINGS_FILE).is_file()

    @property
    def users(self) -> tuple[PageUser, ...]:
        """Who may log in; the file is read again when it changes.

        Raises:
            ServingError: it is damaged: nobody gets in then.
        """
        path = self.folder / FILE
        stamp = files.stamp_of(path)
        if stamp != self._users[0]:
            self._users = stamp, read_users(path)
        return self._users[1]

    @property
    def asks_login(self) -> bool:
        """Whether only users get in: always on the network, and as soon as there are any."""
        return self.is_network or (self.folder / FILE).exists()

    def loop(self, workspace: Workspace) -> "LoopStatus":
        """How the loop of a workspace stands.

        Raises:
            FactoryError: something of it cannot be read.
        """
        if workspace.folder not in self._loops:
            self._loops[workspace.folder] = oversee.looks_at_loop(workspace)
        return self.shared.read(workspace, "loop", OF_LOOP, self._loops[workspace.folder])

    def progress(self, workspace: Workspace) -> "RoundProgress | None":
        """How far the round of a workspace is; None where none was begun."""
        if workspace.folder not in self._rounds:
            self._rounds[workspace.folder] = oversee.looks_at_progress(workspace)
        return self._rounds[workspace.folder]()

    def close(self) -> None:
        """End all streams: the server is about to stop."""
        self.is_closing = True

    def workspace(self, name: str | None) -> Workspace:
        """The workspace that a request is about.

        Args:
            name: of one below the folder, as `find_workspaces` names it; None for the only one.

        Raises:
            HTTPException: there is none of that name. Paths are never made of names.
        """
        if name is None:
            return Workspace.open(self.folder)
        found = find_workspaces(self.folder).get(name)
        if found is None:
            raise HTTPException(404, problems.NO_WORKSPACE(name=name))
        return Workspace(found)


@dataclass(frozen=True)
class Visit:
    """Who asks, and how the answer is to look.

    Attributes:
        site: that is asked.
        session: of the browser.
        user: who logged in; None for nobody.
        language: of the texts.
        theme: `auto`, `light` or `dark`.
        is_secure: whether the browser reached the page by TLS.
    """

    site: Site
    session: Session
    user: PageUser | None
    language: str
    theme: str
    is_secure: bool

    @property
    def token(self) -> str:
        """What every change must carry."""
        return self.site.sessions.token(self.session)

    def may(self, role: Role) -> bool:
        """Whether the visitor has at least this role."""
        return self.user is not None and self.user.may(role)


def visit_of(request: Request) -> Visit:
    """The visitor of a request."""
    visit: Visit = request.state.visit
    return visit


def workspace_of(request: Request) -> Workspace:
    """The workspace that a request's path is about."""
    return visit_of(request).site.workspace(request.path_params.get("workspace"))


Here = Annotated[Workspace, Depends(workspace_of)]
"""The workspace of a page."""


def place_of(request: Request) -> Workspace:
    """The workspace that a path is about; or the folder, in which single runs lie, as one."""
    site, name = visit_of(request).site, request.path_params.get("workspace")
    return Workspace(site.folder) if name is None else site.workspace(name)


Place = Annotated[Workspace, Depends(place_of)]
"""Where single runs of a page lie."""


def damaged_users(site: Site) -> str:
    """Why nobody can log in; empty where they can."""
    try:
        _ = site.users
    except ServingError as error:
        return str(error)
    return ""
