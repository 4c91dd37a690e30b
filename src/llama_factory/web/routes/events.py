"""The stream of a page: which of its parts changed. One a page; closing it ends nothing else."""

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from llama_factory.web import problems
from llama_factory.web.live import LONGEST_STREAM_SECONDS, follow
from llama_factory.web.site import Place, Visit, visit_of

MOST_STREAMS = 200
"""At the same time; whoever comes then asks now and then instead."""
router = APIRouter()


def _place_free(request: Request) -> Visit:
    visit = visit_of(request)
    if visit.site.num_streams >= MOST_STREAMS:
        raise HTTPException(503, problems.MANY_STREAMS())
    return visit


Visitor = Annotated[Visit, Depends(_place_free)]


@router.get("/events", response_class=EventSourceResponse)
async def events(
    request: Request, workspace: Place, visit: Visitor
) -> AsyncIterator[ServerSentEvent]:
    """`changed` with a list of topics; the ids are numbers of the journal."""
    site, user, until = visit.site, visit.user, time.monotonic() + LONGEST_STREAM_SECONDS

    def goes_on() -> bool:
        may_look = not site.asks_login or user in site.users
        return may_look and not site.is_closing and time.monotonic() < until

    known = request.headers.get("last-event-id", "")
    last_seen = int(known) if known.isdigit() else None
    site.num_streams += 1
    try:
        async for event in follow(workspace, last_seen, goes_on, site.lookout):
            yield event
    finally:
        site.num_streams -= 1
