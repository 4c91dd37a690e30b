"""Enough new rows."""

from pydantic import Field

from llama_factory.rounds.triggers import TRIGGERS, Finding, Situation, Trigger


@TRIGGERS.register("rows")
class EnoughRows(Trigger):
    """Begins a round when enough new rows wait. They are cleaned and counted without a model."""

    at_least: int = Field(50, ge=1)
    """How many. Lower learns sooner, in smaller rounds whose tests can tell less; higher waits."""

    def look(self, situation: Situation) -> Finding:
        """See `Trigger`."""
        return Finding(situation.rows >= self.at_least, f"{situation.rows} of {self.at_least} rows")
