"""`POST /v1/feedback`: what users said of an answer."""

import asyncio
import logging
import re
from typing import Any

from fastapi import APIRouter, Request

from llama_factory.inference.question import RequestError
from llama_factory.serving.feedback import FeedbackStore, Stored
from llama_factory.serving.outcome import FeedbackObserver
from llama_factory.serving.protocol.feedback import FeedbackRequest
from llama_factory.serving.service import Gateway

IDEMPOTENCY_KEY = "Idempotency-Key"
GIVEN_KEY = re.compile(r"[\x20-\x7e]{1,255}")

logger = logging.getLogger(__name__)


def router(gateway: Gateway, store: FeedbackStore) -> APIRouter:
    """The route."""
    routes = APIRouter(prefix="/v1")

    @routes.post("/feedback")
    async def feedback(body: FeedbackRequest, request: Request) -> dict[str, Any]:
        idempotency_key = _idempotency_key(request)
        key_id = request.state.entry.key_id
        # The answer is sent after the disk has it, on a thread that may wait for the disk.
        stored = await asyncio.to_thread(store.give, body.given(), key_id, idempotency_key)
        if stored.is_new:
            _notify(gateway, stored)
        return stored.to_json()

    return routes


def _idempotency_key(request: Request) -> str:
    given = request.headers.get(IDEMPOTENCY_KEY)
    if given is None:
        return ""
    if not GIVEN_KEY.fullmatch(given):
        raise RequestError(
            f"{IDEMPOTENCY_KEY}: must have 1 to 255 plain characters, such as a UUID.",
            param=IDEMPOTENCY_KEY,
        )
    return given


def _notify(gateway: Gateway, stored: Stored) -> None:
    """An observer that fails must not make stored feedback look lost."""
    for observer in gateway.observers:
        if not isinstance(observer, FeedbackObserver):
            continue
        try:
            observer.feedback(stored.completion_id, stored.rating, stored.version)
        except Exception:
            logger.exception("an observer of feedback failed")
