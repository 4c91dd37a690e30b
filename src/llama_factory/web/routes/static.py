"""The style sheet and the script; nothing of the page comes from elsewhere."""

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from llama_factory.web import problems

FOLDER = Path(__file__).parents[1] / "static"
KINDS = {
    "web.css": "text/css",
    "web.js": "text/javascript",
    "chat.js": "text/javascript",
    "data.js": "text/javascript",
    "pairs.js": "text/javascript",
    "review.js": "text/javascript",
    "train.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

router = APIRouter()


@router.get("/static/{name}")
def static(request: Request, name: str) -> Response:
    """One of the page's own files."""
    if name not in KINDS:
        raise HTTPException(404, problems.NO_FILE())
    headers = {"cache-control": "public, max-age=3600" if request.query_params else "no-cache"}
    return FileResponse(FOLDER / name, media_type=KINDS[name], headers=headers)
