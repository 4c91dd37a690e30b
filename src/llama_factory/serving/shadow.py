"""A candidate answers some of production's questions too, in spare time; nobody gets its answers.

What is kept of them is numbers: how often they were the same, how much of their words, how long.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llama_factory.core.errors import VersionError
from llama_factory.core.records import append_records, read_records
from llama_factory.evaluation.metrics.token_f1 import TokenF1
from llama_factory.inference.question import Answer, Options, Prompt
from llama_factory.serving.outcome import Asked, Outcome
from llama_factory.serving.routing import fraction_of
from llama_factory.serving.service import Gateway
from llama_factory.serving.shadow_report import ShadowSettings, file_of
from llama_factory.versions.releases import CANDIDATE, PRODUCTION

logger = logging.getLogger(__name__)

MAX_WAITING = 64
"""Questions that may wait for spare time; one more pushes the oldest out, which is counted."""
LOOK_SECONDS = 0.05
"""How often a shadow looks whether somebody waits."""
NO_TIME, CUT, FAILED, BUDGET = "no spare time", "cut short", "failed", "day's tokens used up"


@dataclass(frozen=True)
class _Waiting:
    version_id: str
    prompt: Prompt
    options: Options
    outcome: Outcome


class Shadow:
    """Answers with the candidate what production has answered. Lives on the event loop."""

    def __init__(
        self,
        gateway: Gateway,
        settings: ShadowSettings,
        day: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat(),
    ) -> None:
        self._gateway = gateway
        self._settings = settings
        self._day = day
        self._waiting: deque[_Waiting] = deque()
        self._used = self._used_today()

    def begun(self, asked: Asked, version_id: str) -> None:
        """An answer begins; what counts is how it ends."""

    def finished(self, outcome: Outcome) -> None:
        """An answer ended; a fraction of those of production is asked again."""
        released, workspace = self._gateway.released, self._gateway.workspace
        candidate = released.aliases.get(CANDIDATE)
        is_production = outcome.version_id == released.production
        if (
            candidate is None
            or not is_production
            or outcome.finish_reason in ("cancelled", "failed")
        ):
            return
        if outcome.asked.name not in (PRODUCTION, workspace.folder.name) or outcome.index:
            return
        if fraction_of(outcome.asked.id) >= self._settings.fraction:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._skip(self._waiting.popleft(), NO_TIME)
        self._waiting.append(_Waiting(candidate, *outcome.asked.choices[0], outcome))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer meanwhile, where anything is to be answered."""
        if not self._settings.fraction:
            yield
            return
        working = asyncio.create_task(self._work())
        try:
            yield
        finally:
            working.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await working

    async def _work(self) -> None:
        while True:
            if self._waiting and self._is_idle():
                await self._take(self._waiting.popleft())
            else:
                await asyncio.sleep(LOOK_SECONDS)

    def _is_idle(self) -> bool:
        admission, engine = self._gateway.admission, self._gateway.engine
        return not (admission.num_running or admission.num_waiting or engine.unavailable)

    async def _take(self, each: _Waiting) -> None:
        if each.version_id != self._gateway.released.aliases.get(CANDIDATE):
            return  # no candidate any more
        day, used = self._used
        if day != self._day():
            self._used = self._day(), 0
        elif used >= self._settings.max_tokens_a_day:
            self._skip(each, BUDGET)
            return
        try:
            await self._compare(each)
        except Exception as error:  # noqa: BLE001  # a shadow costs nobody anything
            logger.info("a shadow of %s failed: %r", each.version_id, error)
            self._skip(each, FAILED)

    async def _compare(self, each: _Waiting) -> None:
        if not self._gateway.versions.is_ready(each.version_id):
            self._skip(each, NO_TIME)
            return
        began = time.monotonic()
        answering = asyncio.ensure_future(self._answer(each))
        while not answering.done():
            await asyncio.wait({answering}, timeout=LOOK_SECONDS)
            if self._gateway.admission.num_waiting and not answering.done():
                answering.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await answering
                self._skip(each, CUT, each.outcome.prompt_tokens)
                return
        self._write(each, answering.result(), time.monotonic() - began)

    async def _answer(self, each: _Waiting) -> Answer:
        gateway = self._gateway
        async with gateway.versions.held(each.version_id):
            events = gateway.engine.answer(each.version_id, each.prompt, each.options)
            async with aclosing(events):
                answers = [event async for event in events if isinstance(event, Answer)]
        return answers[0]

    def _write(self, each: _Waiting, answer: Answer, seconds: float) -> None:
        theirs = each.outcome
        cost = answer.prompt_tokens + answer.completion_tokens
        its_seconds = theirs.seconds - theirs.seconds_waited
        line = {
            "same": answer.text == theirs.text,
            "overlap": TokenF1().score(theirs.text, answer.text),
            "production": {"tokens": theirs.completion_tokens, "seconds": round(its_seconds, 4)},
            "candidate": {"tokens": answer.completion_tokens, "seconds": round(seconds, 4)},
        }
        self._append(each, line, cost)

    def _skip(self, each: _Waiting, reason: str, cost: int = 0) -> None:
        self._append(each, {"skipped": reason}, cost)

    def _append(self, each: _Waiting, line: dict[str, Any], cost: int) -> None:
        head = {"day": self._day(), "id": each.outcome.asked.id, "cost": cost}
        self._used = self._day(), cost + (self._used[1] if self._used[0] == self._day() else 0)
        path = file_of(self._gateway.workspace, each.version_id)
        try:
            append_records(path, [head | line])
        except (OSError, VersionError) as error:
            logger.error("%s: a comparison is lost: %s", path, error)

    def _used_today(self) -> tuple[str, int]:
        """The day, and the tokens that shadows of all candidates cost on it so far."""
        day = self._day()
        paths = self._gateway.workspace.shadow.glob("*.jsonl")
        lines = (line for path in paths for line in read_records(path, dict))
        return day, sum(line["cost"] for line in lines if line["day"] == day)
