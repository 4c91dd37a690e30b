"""Two versions side by side: settings, rows taught, scores, and the answers that changed."""

from functools import partial

from fastapi import APIRouter, Request, Response

from llama_factory import curate, upkeep
from llama_factory.web.pages import attempt, render, version_name
from llama_factory.web.site import Here

MOST_ROWS = 30
"""Of each list; `llama-factory compare --json` has all of them."""
router = APIRouter()


@router.get("/compare")
def compare(request: Request, workspace: Here, before: str, after: str) -> Response:
    """What they differ in, by their files: no model is loaded."""
    names = version_name(before), version_name(after)
    difference, problem = attempt(partial(upkeep.diff, workspace, *names))
    changed, wrong = attempt(partial(upkeep.changed_answers, workspace, *names))
    worse, better = changed or ((), ())
    duels, unread = attempt(partial(curate.votes, workspace))
    return render(
        request,
        "compare",
        before=names[0],
        after=names[1],
        difference=difference,
        worse=worse[:MOST_ROWS],
        better=better[:MOST_ROWS],
        num_changed=(len(worse), len(better)),
        duels=[
            each for each in duels or () if {each.first.version, each.second.version} == set(names)
        ],
        problems=list(dict.fromkeys(filter(None, (problem, wrong, unread)))),
    )
