"""All workspaces and single runs below a folder."""

from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter, Request, Response

from llama_factory import run, upkeep
from llama_factory.web.pages import attempt, render
from llama_factory.web.site import visit_of
from llama_factory.web.workspaces import find_workspaces

MOST_RUNS = 200
router = APIRouter()


@dataclass(frozen=True)
class WorkspaceRow:
    """A workspace in the list.

    Attributes:
        name: in addresses.
        shown: its path from the folder.
        production: the released version; empty where that cannot be read.
        problem: why it cannot be read.
    """

    name: str
    shown: str
    production: str
    problem: str


@router.get("/")
def folder(request: Request) -> Response:
    """The list."""
    place = visit_of(request).site.folder
    found, problem = attempt(lambda: run.runs(place))
    listed = [_row(name, path, place) for name, path in find_workspaces(place).items()]
    shown = (found or [])[:MOST_RUNS]
    return render(request, "folder", workspaces=listed, runs=shown, problem=problem)


def _row(name: str, path: Path, place: Path) -> WorkspaceRow:
    current, problem = attempt(lambda: upkeep.released(path))
    production = current.production if current else ""
    return WorkspaceRow(name, path.relative_to(place).as_posix(), production, problem)
