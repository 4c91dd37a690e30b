"""Rounds: the one in progress as it goes, commands that were begun from here, and past verdicts."""

from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from llama_factory import oversee, run
from llama_factory.rounds.progress import RoundProgress
from llama_factory.versions.workspace import Workspace
from llama_factory.web.charts.training import TrainingCourse, course_of
from llama_factory.web.live_pages import LiveBody, render_live
from llama_factory.web.pages import Who, attempt, back, may, render, version_name, words
from llama_factory.web.shared import LASTING, OF_LOOP, OF_VERSIONS
from llama_factory.web.site import Here, visit_of

PAGE = 20
NUM_JOBS = 10
OF_PROGRESS = ("begun", "round")
OF_ROUNDS = (*OF_PROGRESS, "jobs", "logs", *OF_LOOP, *OF_VERSIONS)
router = APIRouter()


@router.get("/rounds")
def rounds(request: Request, workspace: Here, before: str = "") -> Response:
    """What runs, what was begun, what came of it."""
    start = version_name(before) if before else None
    read = partial(_shown, request, workspace, start)
    return render_live(request, workspace, LiveBody("rounds", OF_ROUNDS, read, before))


def _shown(request: Request, workspace: Workspace, before: str | None) -> dict[str, Any]:
    shared = partial(visit_of(request).site.shared.read, workspace)
    reading = partial(run.versions, workspace, last=PAGE + 1, before=before)
    newest = partial(shared, "newest rounds", OF_VERSIONS, reading, seconds=LASTING)
    past, problem = attempt(reading if before else newest)
    now, wrong = attempt(partial(_progress, request, workspace))
    loop, why_not = attempt(partial(visit_of(request).site.loop, workspace))
    shown = (past or [])[-PAGE:]
    return {
        "past": [each for each in reversed(shown) if each.gate or each.problem],
        "older": shown[0].id if past and len(past) > len(shown) else "",
        "progress": now[0] if now else None,
        "course": now[1] if now else None,
        "jobs": oversee.jobs(workspace, NUM_JOBS),
        "loop": loop,
        "log": oversee.round_log(workspace),
        "problems": list(dict.fromkeys(filter(None, (problem, wrong, why_not)))),
    }


@router.post("/rounds/learn", dependencies=[may("operator")])
def learn(request: Request, workspace: Here, who: Who) -> Response:
    """Begin a round now."""
    return _begun(request, oversee.begin_job(workspace, ["learn"], who=who))


@router.post("/rounds/consolidate", dependencies=[may("operator")])
def consolidate(request: Request, workspace: Here, who: Who) -> Response:
    """Put the updates of all rounds into the weights."""
    return _begun(request, oversee.begin_job(workspace, ["consolidate"], who=who))


@router.post("/rounds/stop", dependencies=[may("operator")])
def stop_round(request: Request, workspace: Here) -> Response:
    """Ask the round in progress to stop; it goes on when it is begun again."""
    key = "rounds.stopping" if oversee.stop_round(workspace) else "rounds.nothing_runs"
    return back(request, "rounds", words(request, key))


@router.post("/rounds/pause", dependencies=[may("operator")])
def pause(request: Request, workspace: Here, who: Who) -> Response:
    """Let no round begin by itself."""
    oversee.pause(workspace, who)
    return back(request, "rounds", words(request, "rounds.paused"))


@router.post("/rounds/resume", dependencies=[may("operator")])
def resume(request: Request, workspace: Here, who: Who) -> Response:
    """Let rounds begin by themselves again."""
    oversee.resume(workspace, who)
    return back(request, "rounds", words(request, "rounds.resumed"))


@router.get("/jobs/{job_id}")
def job(request: Request, workspace: Here, job_id: str) -> Response:
    """One command with the end of what it printed."""
    shown, log = oversee.job_log(workspace, job_id)
    return render(request, "job", job=shown, log=log)


@router.post("/jobs/{job_id}/stop", dependencies=[may("operator")])
def stop_job(request: Request, workspace: Here, job_id: str) -> Response:
    """Ask it to stop."""
    oversee.stop_job(workspace, job_id)
    return back(request, f"jobs/{job_id}", words(request, "rounds.stopping"))


def _progress(
    request: Request, workspace: Workspace
) -> tuple[RoundProgress, TrainingCourse | None] | None:
    """The round in progress, and its pictures."""

    site = visit_of(request).site

    def read() -> tuple[RoundProgress, TrainingCourse | None] | None:
        now = site.progress(workspace)
        return (now, course_of(now.updates)) if now else None

    return site.shared.read(workspace, "progress", OF_PROGRESS, read)


def _begun(request: Request, begun: Any) -> Response:
    return back(request, "rounds", words(request, "rounds.begun", id=begun.id))
