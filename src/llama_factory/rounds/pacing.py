"""When a round begins, and why not yet: a pure function of what waits, what was, and the time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any

from llama_factory.core.durations import show_roughly
from llama_factory.core.sentences import listed
from llama_factory.rounds import loop_sentences as texts
from llama_factory.rounds.loop_settings import LoopSettings
from llama_factory.rounds.triggers import Situation
from llama_factory.versions.journal import Event

DAY = timedelta(hours=24)


@dataclass(frozen=True)
class RoundHistory:
    """What the journal knows of rounds that the watcher began. What lies in the future is left out:
    a clock that was set back must not hold rounds for years.

    Attributes:
        begun: when rounds began, oldest first.
        ended: when the last one ended, also by failing; None where none did.
        failures: how many failed in a row.
        parkings: how often rounds were parked since one ended well.
        spent: identities of rows that rounds came to an end on.
    """

    begun: tuple[datetime, ...] = ()
    ended: datetime | None = None
    failures: int = 0
    parkings: int = 0
    spent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class LoopDecision:
    """Whether a round begins now.

    Attributes:
        due: why it is worth it; empty where it is not.
        waiting: what the triggers wait for.
        held: why it does not begin although it may be worth it.
        until: when the last of these reasons ends, where that is known.
    """

    due: tuple[str, ...]
    waiting: tuple[str, ...]
    held: tuple[str, ...]
    until: datetime | None = None

    @property
    def begins(self) -> bool:
        """Whether a round begins."""
        return bool(self.due) and not self.held

    @property
    def sentence(self) -> str:
        """Why a round begins, or why none does."""
        if self.begins:
            return texts.BEGINS(why=listed(self.due))
        return listed((*self.due, *self.waiting, *self.held))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "begins": self.begins,
            "due": list(self.due),
            "waiting": list(self.waiting),
            "held": list(self.held),
            "until": self.until.isoformat(timespec="seconds") if self.until else None,
            "sentence": self.sentence,
        }


def read_history(listed: Sequence[Event], now: datetime) -> RoundHistory:
    """What events say of earlier rounds.

    Args:
        listed: in order; those of rounds and of parking are looked at.
        now: the time.
    """
    begun, spent = [], set()
    ended: datetime | None = None
    failures = parkings = 0
    for event in listed:
        at = datetime.fromisoformat(event.time)
        if event.what == "round begun" and at <= now:
            begun.append(at)
        if event.what in ("round ended", "round failed") and at <= now:
            ended = at
        if event.what == "round failed":
            failures += not event.data.get("was_stopped", False)
        elif event.what == "parked":
            failures, parkings = 0, parkings + 1
        elif event.what in ("round ended", "unparked"):
            failures = parkings = 0
            spent.add(event.data.get("identity", ""))
    return RoundHistory(tuple(begun), ended, failures, parkings, frozenset(spent - {""}))


def decide(
    situation: Situation, history: RoundHistory, settings: LoopSettings, identity: str = ""
) -> LoopDecision:
    """Whether a round begins now.

    Args:
        situation: what triggers look at.
        history: of earlier rounds.
        settings: of the loop.
        identity: of the rows that wait.
    """
    if not situation.rows:
        return LoopDecision((), (texts.NOTHING_WAITS(),), ())
    if identity and identity in history.spent:
        return LoopDecision((), (texts.CAME_TO_NOTHING(),), ())
    findings = [trigger.look(situation) for trigger in settings.triggers]
    due = tuple(each.text for each in findings if each.is_due)
    waiting = () if due else tuple(each.text for each in findings)
    if not settings.triggers:
        waiting = (texts.NO_TRIGGERS(),)
    holds = list(_holds(situation.now, situation.zone, history, settings))
    until = max((end for _, end in holds), default=None)
    if until is None and not due:
        until = min((each.next for each in findings if each.next), default=None)
    return LoopDecision(due, waiting, tuple(text for text, _ in holds), until)


def _holds(
    now: datetime, zone: tzinfo, history: RoundHistory, settings: LoopSettings
) -> list[tuple[str, datetime]]:
    """What keeps rounds from beginning, each with its end."""
    holds: list[tuple[str, datetime]] = []
    if settings.not_between and (end := quiet_until(settings.not_between, now, zone)):
        holds.append((texts.QUIET(time=f"{end.astimezone(zone):%H:%M}"), end))
    if history.ended is not None:
        end = history.ended + _pause(history, settings)
        if end > now:
            holds.append((_why_paused(history, settings, f"{end.astimezone(zone):%H:%M:%S}"), end))
    recent = [each for each in history.begun if now - each < DAY]
    if len(recent) >= settings.max_rounds_per_day:
        end = recent[-settings.max_rounds_per_day] + DAY
        time_then = f"{end.astimezone(zone):%Y-%m-%d %H:%M}"
        holds.append((texts.ENOUGH_ROUNDS(count=len(recent), time=time_then), end))
    return holds


def _pause(history: RoundHistory, settings: LoopSettings) -> timedelta:
    """How long nothing begins after a round's end."""
    if history.failures:
        return settings.retry.backoff * 2 ** (history.failures - 1)
    return settings.cooldown * 2 ** min(history.parkings, 16)


def _why_paused(history: RoundHistory, settings: LoopSettings, until: str) -> str:
    wait, tries = show_roughly(_pause(history, settings)), settings.retry.times + 1
    if history.failures:
        return texts.TRIED(time=until, failures=history.failures, tries=tries, wait=wait)
    return texts.COOLING_DOWN(time=until, wait=wait)


def quiet_until(window: tuple[time, time], now: datetime, zone: tzinfo) -> datetime | None:
    """The end of the quiet hours that it is now; None where it is none of them.

    Args:
        window: from when to when, on the wall's clock.
        now: the time.
        zone: whose wall.
    """
    local, (start, end) = now.astimezone(zone), window
    wall = local.time()
    is_quiet = start <= wall < end if start < end else wall >= start or wall < end
    if not is_quiet:
        return None
    day = local.date() if wall < end else local.date() + timedelta(days=1)
    return datetime.combine(day, end, zone).astimezone(UTC)
