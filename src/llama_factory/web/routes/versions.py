"""Versions: who comes from whom, what each learned and kept, and what people do with one."""

import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, HTTPException, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.background import BackgroundTask

from llama_factory import curate, operate, run, upkeep
from llama_factory.core.sentences import restore_kinds
from llama_factory.versions.description import Described
from llama_factory.versions.workspace import Workspace
from llama_factory.web.charts.heatmap import heat_map_of
from llama_factory.web.charts.lineage import lineage_of
from llama_factory.web.charts.task_scores import drawn_versions, task_scores
from llama_factory.web.live_pages import LiveBody, render_live
from llama_factory.web.pages import Who, attempt, back, may, render, version_name, words
from llama_factory.web.shared import LASTING, OF_VERSIONS
from llama_factory.web.site import Here, visit_of

PAGE = 25
"""Versions on a page."""
OF_LIST = (*OF_VERSIONS, "votes")
MOST_DUELS = 30
"""Of votes; `llama-factory votes` has all of them."""
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
"""The report is one file with its style and pictures in it; nothing in it may run."""

router = APIRouter()


@router.get("/versions")
def versions(request: Request, workspace: Here, before: str = "") -> Response:
    """The list, the newest first, with the lineage as a picture."""
    start = version_name(before) if before else None
    read = partial(_shown, request, workspace, start)
    return render_live(request, workspace, LiveBody("versions", OF_LIST, read, before))


def _shown(request: Request, workspace: Workspace, before: str | None) -> dict[str, Any]:
    read = partial(run.versions, workspace, last=PAGE + 1, before=before)
    shared = visit_of(request).site.shared
    rows = shared.read(workspace, f"versions before {before}", OF_VERSIONS, read, seconds=LASTING)
    shown = rows[-PAGE:]
    return {
        "rows": shown[::-1],
        "lineage": lineage_of(shown),
        "older": shown[0].id if len(rows) > len(shown) else "",
        "is_newest": not before,
        "notes": attempt(partial(operate.notes, workspace))[0],
        "releases": attempt(partial(upkeep.released, workspace))[0],
        "duels": (attempt(partial(curate.votes, workspace))[0] or [])[:MOST_DUELS],
    }


@router.get("/versions/{version}")
def version(request: Request, workspace: Here, version: str, metric: str = "") -> Response:
    """One version: verdict, what was learned and forgotten, notes."""
    shown = upkeep.describe(workspace, version_name(version))
    metrics = list(shown.report.get("forgetting", {}))
    chosen = metric if metric in metrics else next(reversed(metrics), "")
    return render(
        request,
        "version",
        shown=shown,
        checks=[
            restore_kinds(each) for each in (shown.report.get("verdict") or {}).get("checks", ())
        ],
        metrics=metrics,
        metric=chosen,
        heat_map=heat_map_of(shown.report, chosen),
        curves=task_scores(shown.report, chosen, _intervals(workspace, shown, chosen)),
        is_production="production" in shown.aliases,
        has_page=(shown.version.folder / "report.html").is_file(),
    )


def _intervals(workspace: Workspace, shown: Described, metric: str) -> dict[str, dict[str, Any]]:
    """Of the versions that are drawn, as each one's own report has them."""
    found = {}
    for name in drawn_versions(shown.report, metric):
        known, _ = attempt(partial(upkeep.describe, workspace, name))
        found[name] = known.report.get("intervals", {}) if known else {}
    return found


@router.get("/versions/{version}/report")
def report(request: Request, workspace: Here, version: str) -> Response:
    """The report that lies in the version's folder, as a page of its own."""
    path = workspace.versions / version_name(version) / "report.html"
    if not path.is_file():
        raise HTTPException(404, words(request, "versions.no_report", version=version))
    text = path.read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})


@router.post("/versions/{version}/promote", dependencies=[may("operator")])
def promote(request: Request, workspace: Here, version: str) -> Response:
    """Release it by hand."""
    released = run.promote(workspace, version_name(version))
    return back(
        request, f"versions/{version}", words(request, "versions.promoted", version=released)
    )


@router.post("/versions/{version}/note", dependencies=[may("reviewer")])
def note(
    request: Request, workspace: Here, who: Who, version: str, text: Annotated[str, Form()]
) -> Response:
    """Write something about it."""
    upkeep.note(workspace, version_name(version), text, who)
    return back(request, f"versions/{version}", words(request, "versions.noted"))


@router.post("/versions/{version}/tag", dependencies=[may("operator")])
def tag(request: Request, workspace: Here, version: str, name: Annotated[str, Form()]) -> Response:
    """Give it a name."""
    upkeep.tag(workspace, name, version_name(version))
    return back(request, f"versions/{version}", words(request, "versions.tagged", name=name))


@router.post("/versions/{version}/untag", dependencies=[may("operator")])
def untag(
    request: Request, workspace: Here, version: str, name: Annotated[str, Form()]
) -> Response:
    """Take a name off."""
    upkeep.tag(workspace, name, None)
    return back(request, f"versions/{version_name(version)}")


@router.post("/versions/{version}/pack", dependencies=[may("operator")])
def pack(workspace: Here, version: str) -> Response:
    """The version and all it was made from as one file."""
    name = version_name(version)
    folder = Path(tempfile.mkdtemp(dir=workspace.folder, prefix=".pack-"))
    path = folder / f"{workspace.folder.name}-{name}.tar.zst"
    try:
        upkeep.pack(workspace, name, path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    done = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(path, filename=path.name, background=done)
