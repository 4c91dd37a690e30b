"""Spans of time as people write them: `90s`, `10m`, `1h`, `30d`."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from llama_factory.core.sentences import kind_of_sentence

UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
"""Seconds in each, the longest first."""
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")


NO_SPAN = kind_of_sentence(
    "settings.no_span", "{written} is no span of time. Write it as 90s, 10m, 1h or 30d."
)
NEGATIVE_SPAN = kind_of_sentence("settings.negative_span", "a span of time cannot be negative.")


def read_duration(written: Any) -> timedelta:
    """A span as it is written in settings.

    Raises:
        ValueError: it is none; the message shows how one is written.
    """
    if isinstance(written, timedelta):
        return written
    found = _WRITTEN.fullmatch(written.strip()) if isinstance(written, str) else None
    if found is None:
        raise ValueError(NO_SPAN(written=repr(written)))
    return timedelta(seconds=float(found[1]) * UNITS[found[2]])


def show_duration(span: timedelta) -> str:
    """The shortest writing that is still exact: `90s`, `1h`."""
    seconds = span.total_seconds()
    unit = next((unit for unit, size in UNITS.items() if seconds and seconds % size == 0), "s")
    return f"{seconds / UNITS[unit]:.12g}{unit}"


def show_roughly(span: timedelta) -> str:
    """A span for people, in its two largest units: `3h 20m`."""
    left = max(0, round(span.total_seconds()))
    parts = []
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"


def shown_seconds(seconds: float) -> str:
    """A time worked out, for people, in one unit: `2.5 h`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _not_negative(span: timedelta) -> timedelta:
    if span < timedelta(0):
        raise ValueError(NEGATIVE_SPAN())
    return span


Duration = Annotated[
    timedelta,
    BeforeValidator(read_duration),
    AfterValidator(_not_negative),
    PlainSerializer(show_duration),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*[smhd]$"}),
]
"""A setting that is a span of time."""
