"""The newest numbers of the monitor, as triggers look at them."""

import contextlib
from datetime import UTC, datetime

from llama_factory.core import files
from llama_factory.monitoring import series
from llama_factory.rounds.triggers import SeriesValue
from llama_factory.versions.workspace import Workspace


class MonitorNumbers:
    """The newest number of each series of a workspace; its file is read where it changed."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: tuple[files.Stamp | None, dict[str, SeriesValue]] = (None, {})

    def latest(self) -> dict[str, SeriesValue]:
        """By name; what could not be measured last has none."""
        stamp = files.stamp_of(self._workspace.monitor)
        if stamp != self._known[0]:
            self._known = stamp, read_latest(self._workspace)
        return self._known[1]


def read_latest(workspace: Workspace) -> dict[str, SeriesValue]:
    """The newest number of each series, by name; what could not be measured last has none."""
    numbers = {}
    for name, point in series.latest(workspace).items():
        with contextlib.suppress(ValueError):  # a time that somebody wrote by hand
            at = datetime.fromisoformat(point.at)
            if point.value is not None:
                at = at if at.tzinfo else at.replace(tzinfo=UTC)
                numbers[name] = SeriesValue(float(point.value), at)
    return numbers
