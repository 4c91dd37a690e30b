"""Settings of the loop that runs by itself: when a round begins, what is kept, who is told."""

from datetime import time, timedelta
from typing import Annotated

from pydantic import Field, field_serializer, field_validator

from llama_factory.core.durations import Duration
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import OneOf, Settings
from llama_factory.core.zones import check_zone
from llama_factory.rounds.notify import RECEIVERS, Receiver
from llama_factory.rounds.triggers import TRIGGERS, Trigger
from llama_factory.rounds.triggers.age import OldestRow
from llama_factory.rounds.triggers.rows import EnoughRows
from llama_factory.versions.gc import KeepSettings

UNQUOTED_TIMES = kind_of_sentence(
    "settings.unquoted_times", 'write times in quotes: ["08:00", "18:00"].'
)
WHOLE_DAY = kind_of_sentence(
    "settings.whole_day", "it begins and ends at the same time; rounds would never begin."
)


class ConsolidateSettings(Settings):
    """When the updates of all rounds are put into the weights."""

    every: Duration | None = None
    """How often, such as `30d`; empty: never by itself. An adapter has room for a few rounds."""


class RetrySettings(Settings):
    """What becomes of a round that fails: an error or a crash, not a refusal by the gate."""

    times: int = Field(2, ge=0)
    """How often it is tried again; after that its files are parked, with one alert."""
    backoff: Duration = timedelta(minutes=10)
    """Wait before the first new try; it doubles with each."""


class ProcessSettings(Settings):
    """The process in which a round runs."""

    nice: int = Field(10, ge=0, le=19)
    """How far it stands back behind other programs, such as a server on the same machine."""
    threads: int | None = Field(None, ge=1)
    """Threads of products; empty: as many as usual."""


class LoopSettings(Settings):
    """What `llama-factory watch` does by itself."""

    triggers: list[Annotated[Trigger, OneOf(TRIGGERS)]] = [EnoughRows(), OldestRow()]
    """What begins a round; one of them is enough. None of them begins one while nothing waits to be
    taught."""
    not_between: tuple[time, time] | None = None
    """From when to when no round begins, such as `["08:00", "18:00"]`; over midnight too. The
    canary and rollbacks go on."""
    timezone: str = ""
    """In which times are meant, such as `Asia/Shanghai`; empty: the machine's."""
    cooldown: Duration = timedelta(minutes=10)
    """Least time from the end of a round to the next one. It doubles with every parked round."""
    max_rounds_per_day: int = Field(24, ge=1)
    """Rounds in any 24 hours."""
    consolidate: ConsolidateSettings = ConsolidateSettings()
    """When the updates of all rounds are put into the weights."""
    keep: KeepSettings = KeepSettings()
    """Which versions are kept."""
    retry: RetrySettings = RetrySettings()
    """What becomes of a round that fails."""
    train: ProcessSettings = ProcessSettings()
    """The process in which a round runs."""
    before_promotion: list[str] = []
    """Programs that a version must pass before it is released, also by `learn`: each is given the
    version's folder and its report.json, and ends with exit code 0, or the version is held. Paths
    begin at the workspace."""
    hook_timeout: Duration = timedelta(minutes=10)
    """After which such a program is killed, and the version held."""
    notify: list[Annotated[Receiver, OneOf(RECEIVERS)]] = []
    """Who is told what happens."""
    settle_seconds: float = Field(5.0, ge=0)
    """A file counts when its size and time stood still for so long. Higher is safer with programs
    that write slowly."""
    scan_seconds: float = Field(30.0, gt=0)
    """How often the inbox is looked through; changes on the machine's own disk are seen at once."""

    @field_validator("not_between", mode="before")
    @classmethod
    def _are_times(cls, written: object) -> object:
        # YAML reads an unquoted 18:00 as a number to the base of sixty.
        if isinstance(written, list | tuple) and any(isinstance(each, int) for each in written):
            raise ValueError(UNQUOTED_TIMES())
        return written

    @field_validator("not_between")
    @classmethod
    def _leaves_time(cls, window: tuple[time, time] | None) -> tuple[time, time] | None:
        if window and window[0] == window[1]:
            raise ValueError(WHOLE_DAY())
        return window

    @field_serializer("not_between")
    def _as_written(self, window: tuple[time, time] | None) -> list[str] | None:
        return [each.isoformat("minutes") for each in window] if window else None

    @field_validator("timezone")
    @classmethod
    def _is_known(cls, name: str) -> str:
        return check_zone(name)
