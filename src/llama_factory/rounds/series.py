"""The latest numbers of the series in `monitor.jsonl`."""

import json
from datetime import UTC, datetime
from pathlib import Path

from llama_factory.rounds.triggers import SeriesValue

TAIL_BYTES = 1 << 18
"""So much of the end of the file is read."""


def read_latest(path: Path) -> dict[str, SeriesValue]:
    """The last number of each series by name; lines that cannot be read are left out.

    Args:
        path: lines such as `{"at": "2026-11-30T14:05:00+00:00", "name": "drift.length",
            "value": 0.1}`; a missing file has none.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return {}
    latest = {}
    for line in lines:
        try:
            values = json.loads(line)
            at = datetime.fromisoformat(values["at"])
            reading = SeriesValue(
                float(values["value"]), at if at.tzinfo else at.replace(tzinfo=UTC)
            )
            latest[str(values["name"])] = reading
        except (ValueError, TypeError, KeyError):
            continue
    return latest
