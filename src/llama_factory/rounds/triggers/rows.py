"""Enough new rows."""

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.rounds.triggers import TRIGGERS, Finding, Situation, Trigger

ROWS_WAIT = kind("loop.rows_wait", "{count} of {wanted} rows")


@TRIGGERS.register("rows")
class EnoughRows(Trigger):
    """Begins a round when enough new rows wait. They are cleaned and counted without a model."""

    at_least: int = Field(50, ge=1)
    """How many. Lower learns sooner, in smaller rounds whose tests can tell less; higher waits."""

    def look(self, situation: Situation) -> Finding:
        """See `Trigger`."""
        text = ROWS_WAIT(count=situation.rows, wanted=self.at_least)
        return Finding(situation.rows >= self.at_least, text)
