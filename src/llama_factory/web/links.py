"""Links that hold behind any proxy and under any path: all are relative."""

import re

from starlette.types import Scope

PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~/-]*(\?[A-Za-z0-9._~/=&%+-]*)?")


def path_of(scope: Scope) -> str:
    """The path without the one under which the page is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def root_of(scope: Scope) -> str:
    """From the address of a request to that of the first page: `./`, `../`, `../../`."""
    return _up(path_of(scope))


def base_of(scope: Scope, workspace: str | None) -> str:
    """From the address of a request to that of its workspace's first page."""
    path = path_of(scope)
    return _up(path.removeprefix(f"/w/{workspace}") if workspace else path)


def local(target: str) -> str:
    """A link that a form sent, if it stays on this page; else nothing."""
    return target if PLAIN.fullmatch(target) and ".." not in target else ""


def _up(path: str) -> str:
    return "../" * (path.count("/") - 1) or "./"
