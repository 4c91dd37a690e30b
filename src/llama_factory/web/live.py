"""What changes in a workspace while somebody looks: topics, found by looking at its files."""

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from fastapi.sse import ServerSentEvent

from llama_factory.core.errors import FactoryError
from llama_factory.jobs.single_runs import OUTPUTS
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions.journal import Journal
from llama_factory.versions.workspace import Workspace

LOOK_SECONDS = 1.0
NUM_RUNS = 3
LONGEST_STREAM_SECONDS = 3600.0
"""After which a browser asks again, so that nobody looks on who may not any more."""

Topics = dict[str, str]
"""By topic what it looks like now; anything but equal means that it changed."""


def topics_of(workspace: Workspace) -> dict[str, list[Path]]:
    """The files and folders whose change is that of a topic."""
    folder, building = workspace.folder, workspace.building
    return {
        "releases": [workspace.releases, folder / "notes.json", workspace.canary],
        "round": [building / TRAINER_LOG, building, workspace.lock.with_suffix(".holder")],
        "inbox": [workspace.inbox],
        "monitor": [workspace.monitor],
        "jobs": [*_newest_jobs(workspace), workspace.cache / "watch" / "round.log"],
        "runs": _newest_runs(workspace),
        "review": [workspace.review],
        "feedback": [workspace.feedback],
        "settings": [workspace.settings],
    }


def look(workspace: Workspace) -> tuple[Topics, int]:
    """How everything stands, and the number of the newest event of the journal."""
    seen = {name: _stamp(paths) for name, paths in topics_of(workspace).items()}
    number = newest_event(workspace)
    return seen | {"journal": str(number)}, number


def stamp_of(workspace: Workspace, topics: Sequence[str]) -> str:
    """How the files of topics stand, in one word; besides those of streams: journal and versions.

    Args:
        workspace: that is looked at.
        topics: names.
    """
    journal = workspace.journal
    known = topics_of(workspace) | {
        "journal": [journal, journal.with_name(f"{journal.name}-wal")],
        "versions": [workspace.versions],
    }
    known["inbox"] = [workspace.inbox, *sorted(workspace.inbox.glob("*"))]
    known["begun"] = [workspace.building, workspace.lock.with_suffix(".holder")]
    return _stamp([path for topic in topics for path in known[topic]])


class Lookout:
    """Looks for all streams together: what one saw a moment ago, others need not look for.

    Args:
        seconds: how old it may be.
        clock: seconds; tests have their own.
    """

    def __init__(
        self, seconds: float = LOOK_SECONDS / 2, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[Path, tuple[float, tuple[Topics, int]]] = {}
        self._lock = threading.Lock()

    def look(self, workspace: Workspace) -> tuple[Topics, int]:
        """See `look`."""
        with self._lock:
            now, known = self._clock(), self._seen.get(workspace.folder)
            if known is None or now - known[0] >= self._seconds:
                known = now, look(workspace)
                self._seen[workspace.folder] = known
            return known[1]


def newest_event(workspace: Workspace) -> int:
    """Number of the newest event; 0 where none can be read."""
    try:
        return max((each.number for each in Journal(workspace.journal).events(last=1)), default=0)
    except FactoryError:
        return 0


async def follow(
    workspace: Workspace,
    last_seen: int | None,
    goes_on: Callable[[], bool],
    *,
    look_seconds: float = LOOK_SECONDS,
    look: Callable[[Workspace], tuple[Topics, int]] = look,
) -> AsyncIterator[ServerSentEvent]:
    """Topics as they change; heartbeats between them are FastAPI's.

    Args:
        workspace: that is looked at.
        last_seen: the last event of the journal that the browser knows; None for none.
        goes_on: False ends the stream.
        look_seconds: time between looks.
        look: gives how everything stands.
    """
    before, number = await asyncio.to_thread(look, workspace)
    missed = sorted(before) if last_seen is not None and last_seen != number else []
    yield ServerSentEvent(data=missed, event="changed", id=str(number), retry=3000)
    while goes_on():
        await asyncio.sleep(look_seconds)
        now, number = await asyncio.to_thread(look, workspace)
        changed = sorted(name for name in now if now[name] != before[name])
        if changed:
            yield ServerSentEvent(data=changed, event="changed", id=str(number))
        before = now


def _newest_jobs(workspace: Workspace) -> list[Path]:
    """The folder of jobs, and the newest ones with their logs: only those still change."""
    if not workspace.jobs.is_dir():
        return []
    newest = sorted((each for each in workspace.jobs.iterdir()), key=lambda each: each.name)[-5:]
    return [workspace.jobs, *(path for each in newest for path in (each, each / "log"))]


def _newest_runs(workspace: Workspace) -> list[Path]:
    """What the newest single runs write of their updates."""
    folder = workspace.folder / OUTPUTS
    try:
        logs = [each / TRAINER_LOG for each in folder.iterdir() if each.is_dir()]
        known = [(each.stat().st_mtime, each) for each in logs if each.is_file()]
    except OSError:
        return [folder]
    return [folder, *(path for _, path in sorted(known)[-NUM_RUNS:])]


def _stamp(paths: list[Path]) -> str:
    parts = []
    for path in paths:
        try:
            state = path.stat()
            parts.append(f"{state.st_ino}:{state.st_size}:{state.st_mtime_ns}")
        except OSError:
            parts.append("-")
    return hashlib.blake2b(" ".join(parts).encode(), digest_size=8).hexdigest()
