"""Rows that wait for too long."""

from datetime import timedelta

from llama_factory.core.durations import Duration, show_duration, show_roughly
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.rounds.triggers import TRIGGERS, Finding, Situation, Trigger

NO_ROW_WAITS = kind("loop.no_row_waits", "no row waits")
OLDEST_WAITS = kind("loop.oldest_waits", "the oldest row waits {age} of {limit}")


@TRIGGERS.register("age")
class OldestRow(Trigger):
    """Begins a round when the oldest new row waits for so long, however few there are."""

    at_most: Duration = timedelta(hours=24)
    """How long. Lower learns sooner, in smaller rounds; higher waits for more rows."""

    def look(self, situation: Situation) -> Finding:
        """See `Trigger`. A clock that was set back makes nothing older."""
        if situation.oldest is None:
            return Finding(False, NO_ROW_WAITS())
        age = max(timedelta(0), situation.now - situation.oldest)
        text = OLDEST_WAITS(age=show_roughly(age), limit=show_duration(self.at_most))
        return Finding(age >= self.at_most, text, situation.oldest + self.at_most)
