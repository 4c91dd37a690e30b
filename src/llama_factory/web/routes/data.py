"""Data: what waits and what a round would make of it, what was refused, who was taught what."""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from llama_factory import curate
from llama_factory.core.errors import FactoryError
from llama_factory.data.review.cases import Choice
from llama_factory.jobs.uploads import Upload
from llama_factory.versions.forgotten import LONGEST_REASON
from llama_factory.versions.workspace import Workspace
from llama_factory.web.charts.rows import RowPictures, pictures_of
from llama_factory.web.pages import Who, attempt, back, may, render, words
from llama_factory.web.sentences import translate_sentence
from llama_factory.web.site import Here, visit_of

MOST_PIECE_BYTES = 64_000_000
"""Of a piece of a file that the script of the page sends."""
MOST_FORM_BYTES = 500_000_000
"""Of a form without the script, which lies in the machine's temporary folder meanwhile."""
MOST_ROWS = 20
COPIED_BYTES = 1 << 20

router = APIRouter()


class DataQuery(BaseModel):
    """What of the page is wanted.

    Attributes:
        check: name of a file of the inbox that is to be checked.
        q: text to look for in all rows ever taught.
        start: where the search goes on.
        row: number of the first refused row that is shown.
        statistics: whether what was taught is drawn.
    """

    check: str = ""
    q: str = ""
    start: str = ""
    row: int = 0
    statistics: bool = False


@router.get("/data")
def data(request: Request, workspace: Here, asked: Annotated[DataQuery, Query()]) -> Response:
    """The page."""
    check, q = asked.check, asked.q
    waiting, inbox_problem = attempt(lambda: curate.inbox(workspace))
    report, check_problem = attempt(lambda: curate.check(workspace, check) if check else None)
    refused, refused_problem = attempt(lambda: curate.quarantine(workspace))
    rows = refused.rows if refused else ()
    found, search_problem = attempt(lambda: curate.taught(workspace, q, asked.start) if q else None)
    marks, marks_problem = attempt(lambda: curate.forgotten(workspace))
    first = max(0, min(asked.row, len(rows)))
    return render(
        request,
        "data",
        waiting=waiting or [],
        uploads=attempt(lambda: curate.uploads(workspace))[0] or [],
        inbox_problem=inbox_problem,
        checked=check,
        report=report,
        pictures=_pictures(workspace, check)[0] if report else None,
        shows_taught=asked.statistics,
        of_taught=_pictures(workspace) if asked.statistics else (None, ""),
        check_problem=check_problem,
        rows=rows[first : first + MOST_ROWS],
        num_rows=len(rows),
        next_row=first + MOST_ROWS if first + MOST_ROWS < len(rows) else 0,
        marks=marks or [],
        marked={each.mark.key for each in marks or ()},
        marks_problem=marks_problem,
        files=refused.files if refused else (),
        refused_problem=refused_problem,
        q=q,
        found=found,
        search_problem=search_problem,
    )


def _pictures(workspace: Workspace, name: str = "") -> tuple[RowPictures | None, str]:
    return attempt(lambda: pictures_of(curate.statistics(workspace, name)))


@router.post("/data/upload", dependencies=[may("operator")], max_body_size=MOST_FORM_BYTES)
def upload(request: Request, workspace: Here, file: list[UploadFile]) -> Response:
    """Files of a form, for browsers without a script."""
    names = [each.filename or "" for each in file]
    for name, each in zip(names, file, strict=True):
        with curate.receive(workspace, name) as target:
            while piece := each.file.read(COPIED_BYTES):
                target.write(piece)
    return back(request, "data", words(request, "data.received", names=", ".join(names)))


@router.post("/data/uploads", dependencies=[may("operator")])
def begin(
    request: Request, workspace: Here, who: Who, name: str, size: int, stamp: str = ""
) -> Response:
    """Begin to send a file, or go on with it: answers where the next piece begins."""
    return _progress_of(request, lambda: curate.begin_upload(workspace, who, name, size, stamp))


@router.post(
    "/data/uploads/{upload}", dependencies=[may("operator")], max_body_size=MOST_PIECE_BYTES
)
async def add_piece(request: Request, workspace: Here, upload: str, offset: int) -> Response:
    """The next piece of a file as the body, written as it comes; the last one finishes it."""
    if not request.headers.get("content-type", "").startswith("application/octet-stream"):
        raise HTTPException(415, words(request, "data.no_file"))
    try:
        with curate.add_to_upload(workspace, upload, offset) as target:
            async for piece in request.stream():
                await asyncio.to_thread(target.write, piece)
    except FactoryError as error:
        known, _ = attempt(lambda: curate.upload(workspace, upload))
        received = known.received if known else -1
        return _refused(request, error, received)
    return _progress_of(request, lambda: curate.finish_upload(workspace, upload))


@router.post("/data/uploads/{upload}/remove", dependencies=[may("operator")])
def remove_upload(request: Request, workspace: Here, upload: str) -> Response:
    """Throw away what is here of a file that was not sent to its end."""
    gone = curate.remove_upload(workspace, upload)
    return back(request, "data", words(request, "data.removed", name=gone.name))


def _progress_of(request: Request, change: Callable[[], Upload]) -> Response:
    """How far a file is, for the script of the page."""
    try:
        upload = change()
    except FactoryError as error:
        return _refused(request, error, -1)
    return JSONResponse({"id": upload.id, "received": upload.received, "size": upload.num_bytes})


def _refused(request: Request, error: FactoryError, received: int) -> Response:
    said = translate_sentence(visit_of(request).language, str(error))
    return JSONResponse({"problem": said, "received": received}, 409)


@router.post("/data/forget", dependencies=[may("reviewer")])
def forget(
    request: Request,
    workspace: Here,
    who: Who,
    key: Annotated[str, Form(max_length=40)],
    why: Annotated[str, Form(max_length=LONGEST_REASON)],
) -> Response:
    """Mark a taught row to be forgotten."""
    curate.forget(workspace, key, who, why)
    return back(request, "data", words(request, "data.marked"))


@router.post("/data/remember", dependencies=[may("reviewer")])
def remember(
    request: Request, workspace: Here, who: Who, key: Annotated[str, Form(max_length=40)]
) -> Response:
    """Take such a mark back."""
    curate.remember(workspace, key, who)
    return back(request, "data", words(request, "data.unmarked"))


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
