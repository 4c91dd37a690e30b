"""A server's part in a canary: it routes callers, watches answers, reports and takes over.

Whatever fails in here costs nobody an answer: production goes on.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal

from filelock import FileLock, Timeout

from llama_factory.core import files
from llama_factory.evaluation.e_process import Arm
from llama_factory.serving import canary_store, routing
from llama_factory.serving.canary import Canary, CanarySettings, Judged, News
from llama_factory.serving.conversation_outcomes import AnswerOutcome, ConversationOutcomes
from llama_factory.serving.outcome import Asked, Caller, Outcome
from llama_factory.serving.routing import ConversationPlace, ConversationPlaces
from llama_factory.serving.service import Gateway
from llama_factory.versions.releases import PRODUCTION, Standing

logger = logging.getLogger(__name__)

REPORT_SECONDS = 5.0
"""How often a canary is written down where no conversation was judged: its time goes on."""
Clock = Callable[[], float]


class CanaryWatch:
    """Follows the canary of a workspace for one server. Lives on the event loop.

    Attributes:
        canary: the one that runs or ran last, as far as this server knows.
    """

    def __init__(
        self, gateway: Gateway, settings: CanarySettings, clock: Clock = time.monotonic
    ) -> None:
        self.canary: Canary | None = None
        self._gateway = gateway
        self._settings = settings
        self._clock = clock
        self._conversations = ConversationPlaces()
        self._begin_anew()
        self._state: object = None
        self._looked_at = clock()
        self._complaint = ""
        self._timer = FileLock(gateway.workspace.canary.with_suffix(".timer"))

    def choose(self, name: str, caller: Caller) -> str:
        """The version that a name means to a caller whose answer begins now."""
        meant = self._gateway.released.version_named(name)
        if not self._is_routed(name):
            return meant
        trial = self._trial(meant)
        if trial is None:
            self._conversations.put(caller.conversation, ConversationPlace(meant))
            return meant
        return routing.choose(self._conversations, caller, trial, self._settings.sticky)

    def begun(self, asked: Asked, version_id: str) -> None:
        """An answer begins; what counts is how it ends."""

    def finished(self, outcome: Outcome) -> None:
        """An answer ended."""
        asked, canary = outcome.asked, self.canary
        place = self._conversations.get(asked.caller.conversation)
        if not self._is_routed(asked.name) or place is None or canary is None:
            return
        standing = canary.standing
        if place.trial != standing or outcome.version_id != place.version_id:
            return
        has_failed = outcome.finish_reason == "failed"
        if outcome.finish_reason == "cancelled" or (has_failed and not outcome.is_servers_fault):
            return
        is_candidate = outcome.version_id == standing.candidate
        self._num_answers += is_candidate
        self._num_failed += is_candidate and has_failed
        seconds = None if has_failed else outcome.seconds - outcome.seconds_waited
        arm: Arm = "candidate" if is_candidate else "production"
        answer = AnswerOutcome(
            asked.caller.conversation, asked.id, arm, seconds, asked.caller.begins
        )
        self._outcomes.answered(answer, self._clock())

    def feedback(self, completion_id: str, rating: Literal["up", "down"], version_id: str) -> None:
        """See `FeedbackObserver`."""
        self._outcomes.rated(completion_id, is_down=rating == "down")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Follow the canary meanwhile."""
        following = asyncio.create_task(self._follow(self._gateway.settings.poll_seconds))
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
            self._timer.release(force=True)

    async def _follow(self, poll_seconds: float) -> None:
        while True:
            await self.look()
            await asyncio.sleep(poll_seconds)

    async def look(self) -> None:
        """Report what was observed, and take over what follows from it and from the files."""
        now = self._clock()
        self._unsent += self._outcomes.due(now)
        if not self._is_due(now):
            return
        news = self._news(now)
        try:
            # Read before: what is written while it is looked at is looked at again.
            state = self._files()
            canary = await asyncio.to_thread(self._advance, news)
        except Exception as error:  # noqa: BLE001  # production goes on; the next look is due
            self._complain(error)
            return
        self._complaint, self._state = "", state
        self._sent(news)
        await self._take(canary)

    def _advance(self, news: News | None) -> Canary | None:
        return canary_store.advance(self._gateway.workspace, self._settings, news)

    def _is_due(self, now: float) -> bool:
        """Whether anything is to be reported or read."""
        is_running = self.canary is not None and self.canary.is_running
        is_time = is_running and now - self._looked_at >= REPORT_SECONDS
        has_failed = self._num_answers > 0 and self._num_failed == self._num_answers
        is_moved = self._state is None or self._files() != self._state
        return bool(self._unsent) or is_time or has_failed or is_moved or bool(self._cannot_serve())

    def _files(self) -> tuple[object, ...]:
        """Changes whenever the files that a canary depends on do."""
        workspace = self._gateway.workspace
        return tuple(files.state_of(path) for path in (workspace.releases, workspace.canary))

    def _news(self, now: float) -> News | None:
        seconds = now - self._looked_at if self._keeps_time() else 0.0
        self._looked_at = now
        if self.canary is None or not self.canary.is_running:
            return None
        standing = self.canary.standing
        is_ready = self._trial(self._gateway.released.production) is not None
        counted = seconds if is_ready else 0.0
        judged = tuple(self._unsent)
        numbers = self._num_answers, self._num_failed
        return News(standing, judged, *numbers, counted, self._cannot_serve())

    def _sent(self, news: News | None) -> None:
        """What was written down is not reported again."""
        if news is None:
            self._unsent.clear()
            return
        del self._unsent[: len(news.judged)]
        self._num_answers -= news.num_answers
        self._num_failed -= news.num_failed

    def _keeps_time(self) -> bool:
        """Whether this server counts the hours: of several that share a workspace one does."""
        if self._timer.is_locked:
            return True
        try:
            self._timer.acquire(timeout=0)
        except (Timeout, OSError):
            return False
        return True

    async def _take(self, canary: Canary | None) -> None:
        before, self.canary = self.canary, canary
        was = (before.standing, before.state) if before else None
        if canary is None or was == (canary.standing, canary.state):
            return
        standing = canary.standing
        if before is None or before.standing != standing:
            self._begin_anew()
        if canary.is_running:
            percent = 100 * canary.fraction
            logger.info(
                "%s is tried: it answers %g %% of callers, %s the others",
                standing.candidate,
                percent,
                standing.production,
            )
        elif before is not None:
            log = logger.warning if canary.state == "taken_back" else logger.info
            log("the canary of %s ended: %s. %s", standing.candidate, canary.state, canary.why)
            await self._gateway.released.look()

    def _begin_anew(self) -> None:
        """Nothing was observed of this canary."""
        self._outcomes = ConversationOutcomes(60 * self._settings.patience_minutes)
        self._unsent: list[Judged] = []
        self._num_answers = self._num_failed = 0

    def _trial(self, production: str) -> tuple[Standing, float] | None:
        """What callers are divided between; None where production alone answers."""
        canary = self.canary
        if canary is None or not canary.is_running or canary.standing.production != production:
            return None
        is_ready = self._gateway.versions.is_ready(canary.standing.candidate)
        return (canary.standing, canary.fraction) if is_ready else None

    def _is_routed(self, name: str) -> bool:
        return name in (PRODUCTION, self._gateway.workspace.folder.name)

    def _cannot_serve(self) -> str:
        """Why the candidate is not served although the engine is there."""
        canary, gateway = self.canary, self._gateway
        if canary is None or not canary.is_running or gateway.engine.unavailable:
            return ""
        is_refused = canary.standing.candidate in gateway.released.refused
        return "the server could not load it; its log has the reason" if is_refused else ""

    def _complain(self, error: Exception) -> None:
        """Log once, not at every look."""
        if (complaint := repr(error)) != self._complaint:
            self._complaint = complaint
            logger.error("the canary stands still, and production goes on: %s", error)
