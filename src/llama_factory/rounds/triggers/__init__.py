"""Triggers, one a file: what makes a round worth it. Any one that is due begins a round.

They only look: pauses, quiet hours and failures are held against all of them in `pacing.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from llama_factory.core.settings import Registry, Settings, import_parts


@dataclass(frozen=True)
class SeriesValue:
    """One number of a series in `monitor.jsonl`.

    Attributes:
        value: the latest.
        at: when it was measured.
    """

    value: float
    at: datetime


@dataclass(frozen=True)
class Situation:
    """What triggers look at.

    Attributes:
        now: the time, with a zone.
        rows: new clean rows that wait to be taught.
        oldest: since when the oldest of them waits; None where none does.
        last_round: when the last round began; None where none did.
        last_end: when it ended; what a round measures of its own rows is from before.
        zone: of times that name no zone themselves.
        ratings: of users since the last round, oldest first: whether each is a thumb down.
        readings: latest numbers by the name of their series.
    """

    now: datetime
    rows: int
    oldest: datetime | None
    last_round: datetime | None
    zone: tzinfo
    ratings: Sequence[bool] = ()
    readings: Mapping[str, SeriesValue] = field(default_factory=dict)
    last_end: datetime | None = None


@dataclass(frozen=True)
class Finding:
    """What a trigger found.

    Attributes:
        is_due: whether a round is worth it.
        text: the numbers behind that, for people: `41 of 50 rows`.
        next: when it is due if nothing else happens; None where that is not known.
    """

    is_due: bool
    text: str
    next: datetime | None = None


class Trigger(Settings):
    """What makes a round worth it."""

    def look(self, situation: Situation) -> Finding:
        """Whether a round is worth it now, and the numbers behind that."""
        raise NotImplementedError


TRIGGERS: Registry[Trigger] = Registry("trigger")
import_parts(__name__, __path__)
