"""Times as they are written into files."""

from datetime import UTC, datetime


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
