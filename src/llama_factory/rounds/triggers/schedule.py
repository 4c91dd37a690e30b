"""Times of a calendar, as cron writes them."""

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter
from pydantic import field_validator

from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.zones import check_zone
from llama_factory.rounds.triggers import TRIGGERS, Finding, Situation, Trigger

NEXT_TIME = kind("loop.next_time", "next at {time}")
WAS_TIME = kind("loop.was_time", "it was time at {time}")
FIELDS = 5
MARGIN = timedelta(hours=3)
"""No clock of a zone is changed by more than that."""


NO_CRON = kind(
    "settings.no_cron",
    "'{written}' has {count} fields, and cron has five: minute, hour, day of the month, month, "
    "day of the week, such as 0 3 * * *.",
)
NO_CALENDAR_TIME = kind(
    "settings.no_calendar_time",
    "'{written}' is no time of a calendar ({error}). Every night at three is 0 3 * * *.",
)


@TRIGGERS.register("schedule")
class ScheduledTime(Trigger):
    """Begins a round at times of a calendar, if a row waits then.

    A time that was missed, as when the machine was off, is made up for once.
    """

    cron: str = "0 3 * * *"
    """Minute, hour, day of the month, month, day of the week: `0 3 * * *` is every night at three,
    `30 22 * * 1-5` half past ten on working days."""
    timezone: str = ""
    """In which these times are meant, such as `Asia/Shanghai`; empty: `loop.timezone`."""

    @field_validator("cron")
    @classmethod
    def _is_readable(cls, written: str) -> str:
        if len(written.split()) != FIELDS:
            raise ValueError(NO_CRON(written=written, count=len(written.split())))
        try:
            croniter(written, datetime(2026, 1, 1, tzinfo=UTC)).get_next(datetime)
        except (CroniterError, ValueError, KeyError) as error:
            raise ValueError(NO_CALENDAR_TIME(written=written, error=error)) from None
        return written

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return check_zone(name)

    def look(self, situation: Situation) -> Finding:
        """See `Trigger`. Due where a time has passed since the rows came and the last round."""
        zone = ZoneInfo(self.timezone) if self.timezone else situation.zone
        upcoming = _neighbour(self.cron, situation.now, zone, 1)
        text = NEXT_TIME(time=f"{upcoming.astimezone(zone):%Y-%m-%d %H:%M} {zone}")
        if situation.oldest is None:
            return Finding(False, text, upcoming)
        since = max(filter(None, (situation.oldest, situation.last_round)))
        passed = _neighbour(self.cron, situation.now, zone, -1)
        if passed <= since:
            return Finding(False, text, upcoming)
        return Finding(True, WAS_TIME(time=f"{passed.astimezone(zone):%Y-%m-%d %H:%M} {zone}"))


def _neighbour(cron: str, now: datetime, zone: tzinfo, step: int) -> datetime:
    """The first time after now (1), or the last one up to now (-1), in UTC.

    Walked on the wall's clock: a time that a change of the clock leaves out is taken an hour later,
    and one that comes twice only the first time.
    """
    wall = now.astimezone(zone).replace(tzinfo=None)
    walk = croniter(cron, wall - step * MARGIN)
    while True:
        each = walk.get_next(datetime) if step > 0 else walk.get_prev(datetime)
        moment: datetime = each.replace(tzinfo=zone, fold=0).astimezone(UTC)
        if (moment > now) if step > 0 else (moment <= now):
            return moment
