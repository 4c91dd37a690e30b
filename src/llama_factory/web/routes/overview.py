"""Overview: what answers now and since when, what happened, what comes next, and the way back."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from llama_factory import operate, run, upkeep
from llama_factory.reports.listing import VersionRow
from llama_factory.versions.releases import PRODUCTION, Release, Releases
from llama_factory.versions.workspace import Workspace
from llama_factory.web.live_pages import LiveBody, render_live
from llama_factory.web.pages import attempt, back, may, words
from llama_factory.web.shared import LASTING, OF_HEALTH, OF_LOOP, OF_VERSIONS
from llama_factory.web.site import Here, visit_of

NUM_VERDICTS = 3
router = APIRouter()


@router.get("/")
def overview(request: Request, workspace: Here) -> Response:
    """The first page of a workspace."""
    topics = (*OF_LOOP, *OF_HEALTH, *OF_VERSIONS)
    read = partial(_shown, request, workspace)
    return render_live(request, workspace, LiveBody("overview", topics, read))


def _shown(request: Request, workspace: Workspace) -> dict[str, Any]:
    shared = partial(visit_of(request).site.shared.read, workspace)
    judged = partial(_verdicts, workspace)
    sections: dict[str, Callable[[], Any]] = {
        "releases": partial(upkeep.released, workspace),
        "verdicts": partial(shared, "verdicts", OF_VERSIONS, judged, seconds=LASTING),
        "loop": partial(visit_of(request).site.loop, workspace),
        "canary": partial(shared, "canary", OF_HEALTH, partial(operate.canary, workspace)),
        "health": partial(shared, "health", OF_HEALTH, partial(operate.health, workspace)),
    }
    read = {name: attempt(each) for name, each in sections.items()}
    values: dict[str, Any] = {name: value for name, (value, _) in read.items()}
    values["problems"] = list(dict.fromkeys(problem for _, problem in read.values() if problem))
    values["since"] = _since(values["releases"]) if values["releases"] else None
    return values


@router.post("/rollback", dependencies=[may("operator")])
def roll_back(request: Request, workspace: Here, to: Annotated[str, Form()] = "") -> Response:
    """The released version before, or another one, answers again."""
    before, now = run.rollback(workspace, to or None)
    return back(request, "", words(request, "overview.rolled_back", before=before, now=now))


def _verdicts(workspace: Workspace) -> list[VersionRow]:
    """The newest versions that were judged, the newest first."""
    newest = run.versions(workspace, last=NUM_VERDICTS)
    return [each for each in reversed(newest) if each.gate or each.problem]


def _since(current: Releases) -> Release | None:
    """The move that released what answers now; None where it was never moved."""
    moves = list(current.history)
    since = None
    while moves and moves[-1].aliases.get(PRODUCTION) == current.production:
        since = moves.pop()
    return since
