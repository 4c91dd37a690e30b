"""Data: what waits and what a round would make of it, what was refused, who was taught what."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import PlainTextResponse

from llama_factory import curate
from llama_factory.core import files
from llama_factory.core.errors import FactoryError
from llama_factory.data.review.cases import Choice
from llama_factory.versions.workspace import Workspace
from llama_factory.web.pages import Who, attempt, back, may, render, words
from llama_factory.web.site import Here

MOST_SENT_BYTES = 4_000_000_000
"""Of one file that the script of the page sends."""
MOST_FORM_BYTES = 500_000_000
"""Of a form without the script, which lies in the machine's temporary folder meanwhile."""
MOST_ROWS = 20
COPIED_BYTES = 1 << 20

router = APIRouter()


@router.get("/data")
def data(
    request: Request, workspace: Here, check: str = "", q: str = "", start: str = "", row: int = 0
) -> Response:
    """The page.

    Args:
        request: that is answered.
        workspace: whose data.
        check: name of a file of the inbox that is to be checked.
        q: text to look for in all rows ever taught.
        start: where the search goes on.
        row: number of the first refused row that is shown.
    """
    waiting, inbox_problem = attempt(lambda: curate.inbox(workspace))
    report, check_problem = attempt(lambda: curate.check(workspace, check) if check else None)
    refused, refused_problem = attempt(lambda: curate.quarantine(workspace))
    rows = refused.rows if refused else ()
    found, search_problem = attempt(lambda: curate.taught(workspace, q, start) if q else None)
    first = max(0, min(row, len(rows)))
    return render(
        request,
        "data",
        waiting=waiting or [],
        inbox_problem=inbox_problem,
        checked=check,
        report=report,
        check_problem=check_problem,
        rows=rows[first : first + MOST_ROWS],
        num_rows=len(rows),
        next_row=first + MOST_ROWS if first + MOST_ROWS < len(rows) else 0,
        files=refused.files if refused else (),
        refused_problem=refused_problem,
        q=q,
        found=found,
        search_problem=search_problem,
    )


@router.post("/data/upload", dependencies=[may("operator")], max_body_size=MOST_FORM_BYTES)
def upload(request: Request, workspace: Here, file: list[UploadFile]) -> Response:
    """Files of a form, for browsers without a script."""
    names = [each.filename or "" for each in file]
    for name, each in zip(names, file, strict=True):
        with curate.receive(workspace, name) as target:
            while piece := each.file.read(COPIED_BYTES):
                target.write(piece)
    return back(request, "data", words(request, "data.received", names=", ".join(names)))


@router.post("/data/send", dependencies=[may("operator")], max_body_size=MOST_SENT_BYTES)
async def send(request: Request, workspace: Here, name: str) -> Response:
    """One file as the body of a request, written as it comes; problems are told in plain text."""
    if not request.headers.get("content-type", "").startswith("application/octet-stream"):
        raise HTTPException(415, words(request, "data.no_file"))
    try:
        await _receive(request, workspace, name)
    except FactoryError as error:
        return PlainTextResponse(str(error), 409)
    return PlainTextResponse(words(request, "data.received", names=name))


async def _receive(request: Request, workspace: Workspace, name: str) -> None:
    length = request.headers.get("content-length", "")
    size = int(length) if length.isdigit() else 0
    files.require_space(workspace.inbox, size, what=f"{name[:80]!r}")
    with curate.receive(workspace, name) as target:
        async for piece in request.stream():
            await asyncio.to_thread(target.write, piece)


@router.post("/data/mend", dependencies=[may("reviewer")])
def mend(
    request: Request,
    workspace: Here,
    who: Who,
    case: Annotated[str, Form(max_length=200)],
    row: Annotated[str, Form()] = "",
) -> Response:
    """What a person made of a refused row goes to the next round; an empty one is dropped."""
    curate.decide(workspace, case, who, Choice(edited=row.strip()))
    done = "data.mended" if row.strip() else "data.dropped"
    return back(request, "data", words(request, done))
