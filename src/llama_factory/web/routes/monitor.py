"""Monitor: series as pictures, alerts with what they mean, and the journal."""

from functools import partial
from typing import Any, cast, get_args

from fastapi import APIRouter, HTTPException, Request, Response

from llama_factory import operate, oversee
from llama_factory.versions.journal import What
from llama_factory.versions.journal_words import about
from llama_factory.versions.workspace import Workspace
from llama_factory.web import problems
from llama_factory.web.charts.series import draw_series
from llama_factory.web.live_pages import LiveBody, render_live
from llama_factory.web.pages import Who, attempt, back, may, words
from llama_factory.web.shared import OF_EVENTS, OF_HEALTH
from llama_factory.web.site import Here, visit_of

NUM_EVENTS = 100
KINDS = get_args(What)
router = APIRouter()


@router.get("/monitor")
def monitor(request: Request, workspace: Here, what: str = "") -> Response:
    """How the workspace is, and what happened in it."""
    if what and what not in KINDS:
        raise HTTPException(404, problems.NO_EVENT(name=what[:40]))
    topics, read = (*OF_HEALTH, *OF_EVENTS), partial(_shown, request, workspace, what)
    return render_live(request, workspace, LiveBody("monitor", topics, read, what))


def _shown(request: Request, workspace: Workspace, what: str) -> dict[str, Any]:
    wanted = [cast("What", what)] if what else []
    shared = partial(visit_of(request).site.shared.read, workspace)
    standing = partial(operate.health, workspace)
    health, problem = attempt(partial(shared, "health", OF_HEALTH, standing))
    happened = partial(oversee.journal, workspace, what=wanted, last=NUM_EVENTS)
    listed, wrong = attempt(partial(shared, f"events {what}", OF_EVENTS, happened))
    return {
        "health": health,
        "series": draw_series(health.history) if health else [],
        "events": [(each, about(each)) for each in reversed(listed or [])],
        "kinds": KINDS,
        "what": what,
        "problems": list(dict.fromkeys(filter(None, (problem, wrong)))),
    }


@router.post("/monitor/observe", dependencies=[may("operator")])
def observe(request: Request, workspace: Here, who: Who) -> Response:
    """Measure now what needs no model."""
    job = oversee.begin_job(workspace, ["monitor"], who=who)
    return back(request, "monitor", words(request, "rounds.begun", id=job.id))
