"""Monitor: series as pictures, alerts with what they mean, and the journal."""

from functools import partial
from typing import cast, get_args

from fastapi import APIRouter, HTTPException, Request, Response

from llama_factory import operate, oversee
from llama_factory.versions.journal import What
from llama_factory.versions.journal_words import about
from llama_factory.web.charts.series import draw_series
from llama_factory.web.pages import Who, attempt, back, may, render, words
from llama_factory.web.shared import OF_HEALTH
from llama_factory.web.site import Here, visit_of

NUM_EVENTS = 100
router = APIRouter()


@router.get("/monitor")
def monitor(request: Request, workspace: Here, what: str = "") -> Response:
    """How the workspace is, and what happened in it."""
    kinds = get_args(What)
    if what and what not in kinds:
        raise HTTPException(404, f"there is no event '{what[:40]}'")
    wanted = [cast("What", what)] if what else []
    reading = partial(operate.health, workspace)
    shared = visit_of(request).site.shared
    health, problem = attempt(partial(shared.read, workspace, "health", OF_HEALTH, reading))
    listed, wrong = attempt(partial(oversee.journal, workspace, what=wanted, last=NUM_EVENTS))
    return render(
        request,
        "monitor",
        health=health,
        series=draw_series(health.history) if health else [],
        events=[(each, about(each)) for each in reversed(listed or [])],
        kinds=kinds,
        what=what,
        problems=list(dict.fromkeys(filter(None, (problem, wrong)))),
    )


@router.post("/monitor/observe", dependencies=[may("operator")])
def observe(request: Request, workspace: Here, who: Who) -> Response:
    """Measure now what needs no model."""
    job = oversee.begin_job(workspace, ["monitor"], who=who)
    return back(request, "monitor", words(request, "rounds.begun", id=job.id))
