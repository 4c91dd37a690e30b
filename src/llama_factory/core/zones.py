"""Time zones: by name, and the machine's own."""

from datetime import datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from llama_factory.core.errors import suggest

LOCALTIME = Path("/etc/localtime")


def check_zone(name: str) -> str:
    """The name of a zone as it is; empty stays empty.

    Raises:
        ValueError: there is no such zone; the nearest is named.
    """
    known = available_timezones()
    if name and name not in known:
        raise ValueError(
            f"there is no time zone '{name}'.{suggest(name, known)} Names are as Asia/Shanghai."
        )
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
