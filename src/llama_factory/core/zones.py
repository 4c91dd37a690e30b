"""Time zones: by name, and the machine's own."""

from datetime import datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from llama_factory.core.errors import suggest
from llama_factory.core.sentences import kind_of_sentence

LOCALTIME = Path("/etc/localtime")


NO_ZONE = kind_of_sentence(
    "settings.no_zone", "there is no time zone '{name}'.{hint} Names are as Asia/Shanghai."
)


def check_zone(name: str) -> str:
    """The name of a zone as it is; empty stays empty.

    Raises:
        ValueError: there is no such zone; the nearest is named.
    """
    known = available_timezones()
    if name and name not in known:
        raise ValueError(NO_ZONE(name=name, hint=suggest(name, known)))
    return name


def zone_of(name: str) -> tzinfo:
    """A zone by its name; the machine's own where that is empty, with its changes of the clock."""
    if name:
        return ZoneInfo(name)
    linked = LOCALTIME.resolve().as_posix().partition("/zoneinfo/")[2]
    if linked in available_timezones():
        return ZoneInfo(linked)
    local = datetime.now().astimezone().tzinfo
    assert local is not None
    return local
