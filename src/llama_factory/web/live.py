"""What changes in a workspace while somebody looks: topics, found by looking at its files."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from fastapi.sse import ServerSentEvent

from llama_factory.core import files
from llama_factory.core.errors import FactoryError
from llama_factory.core.ownership import living_owner
from llama_factory.data.review.case_book import DECISIONS
from llama_factory.data.sources.feedback import PATTERN as FEEDBACK
from llama_factory.jobs.single_runs import OUTPUTS
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions.journal import Journal
from llama_factory.versions.workspace import Workspace

LOOK_SECONDS = 1.0
OF_COURSE = ("round", "logs", "runs")
"""Topics that go on and on while something runs."""
COURSE_SECONDS = 3.0
"""Between two words about those; everything else is told at the next look."""
NUM_RUNS = 3
NUM_JOBS = 5
NUM_DAYS = 2
LONGEST_STREAM_SECONDS = 3600.0
"""After which a browser asks again, so that nobody looks on who may not any more."""

Topics = dict[str, str]
"""By topic what it looks like now; anything but equal means that it changed."""
Seen = tuple[Topics, int]
"""How everything stands, and the number of the newest event of the journal."""


def _newest_jobs(workspace: Workspace) -> list[Path]:
    """The newest ones: only those still change."""
    if not workspace.jobs.is_dir():
        return []
    return sorted(workspace.jobs.iterdir(), key=lambda each: each.name)[-NUM_JOBS:]


def _logs(workspace: Workspace) -> list[Path]:
    """What jobs, and the round that the watcher began, print."""
    logs = [each / "log" for each in _newest_jobs(workspace)]
    return [*logs, workspace.cache / "watch" / "round.log"]


def _newest_runs(workspace: Workspace) -> list[Path]:
    """What the newest single runs write of their updates."""
    folder = workspace.folder / OUTPUTS
    try:
        logs = [each / TRAINER_LOG for each in folder.iterdir() if each.is_dir()]
        known = [(each.stat().st_mtime, each) for each in logs if each.is_file()]
    except OSError:
        return [folder]
    return [folder, *(path for _, path in sorted(known)[-NUM_RUNS:])]


def _learner(workspace: Workspace) -> str:
    """Who works on the round; its signs of life tell nothing, its death does."""
    owner = living_owner(workspace.lock)
    return f"{owner.pid} {owner.host} {owner.started}" if owner else ""


TOPICS: Mapping[str, Callable[[Workspace], Sequence[Path | str]]] = {
    "releases": lambda bot: [bot.releases, bot.folder / "notes.json", bot.canary],
    "begun": lambda bot: [bot.building, _learner(bot)],
    "round": lambda bot: [bot.building / TRAINER_LOG],
    "inbox": lambda bot: [bot.inbox],
    "waiting": lambda bot: [bot.inbox, *sorted(bot.inbox.glob("*"))],
    "monitor": lambda bot: [bot.monitor],
    "jobs": lambda bot: [bot.jobs, *_newest_jobs(bot)],
    "logs": _logs,
    "runs": _newest_runs,
    "review": lambda bot: [bot.review, bot.review / DECISIONS],
    "feedback": lambda bot: [bot.feedback, *sorted(bot.feedback.glob(FEEDBACK))[-NUM_DAYS:]],
    "votes": lambda bot: [bot.votes],
    "settings": lambda bot: [bot.settings],
    "versions": lambda bot: [bot.versions],
    "journal": lambda bot: [bot.journal, bot.journal.with_name(f"{bot.journal.name}-wal")],
}
"""The files and folders whose change is that of a topic; a text stands for itself."""
TOLD = ("releases", "begun", "round", "inbox", "monitor", "jobs", "logs", "runs")
"""Topics that a stream tells of, besides the journal's newest event."""


def look(workspace: Workspace) -> Seen:
    """How everything stands that a stream tells of."""
    number = newest_event(workspace)
    return {name: stamp_of(workspace, [name]) for name in TOLD} | {"journal": str(number)}, number


def stamp_of(workspace: Workspace, topics: Sequence[str]) -> str:
    """How the files of topics stand, in one word.

    Args:
        workspace: that is looked at.
        topics: names of `TOPICS`.
    """
    return _stamp([path for topic in topics for path in TOPICS[topic](workspace)])


class Lookout:
    """Looks for all streams together, and tells all of them at once.

    Who is told at the same time asks for the same page at the same time, which is then made once.

    Args:
        seconds: between two looks.
        look: gives how everything stands.
        course_seconds: between two words about `OF_COURSE`.
    """

    def __init__(
        self,
        seconds: float = LOOK_SECONDS,
        look: Callable[[Workspace], Seen] = look,
        course_seconds: float = COURSE_SECONDS,
    ) -> None:
        self._seconds = seconds
        self._look = look
        self._course_seconds = course_seconds
        self._coming: dict[Path, asyncio.Future[Seen]] = {}
        self._courses: dict[Path, tuple[float, Topics]] = {}

    async def now(self, workspace: Workspace) -> Seen:
        """See `look`; of what goes on and on, as it stood when it was told last."""
        topics, number = await asyncio.to_thread(self._look, workspace)
        return topics | self._course(workspace, topics), number

    async def later(self, workspace: Workspace) -> Seen:
        """The next look; whoever waits meanwhile is given the same one."""
        coming = self._coming.get(workspace.folder)
        if coming is None or coming.done():
            coming = asyncio.ensure_future(self._wait_and_look(workspace))
            self._coming[workspace.folder] = coming
        return await asyncio.shield(coming)  # who leaves does not end it for the others

    def _course(self, workspace: Workspace, topics: Topics) -> Topics:
        """The same for everybody, so that all are told of an update at the same time."""
        now = {name: topics[name] for name in OF_COURSE if name in topics}
        when, told = self._courses.get(workspace.folder, (-self._course_seconds, now))
        if now != told and time.monotonic() - when < self._course_seconds:
            return told
        if now != told or workspace.folder not in self._courses:
            self._courses[workspace.folder] = time.monotonic(), now
        return now

    async def _wait_and_look(self, workspace: Workspace) -> Seen:
        await asyncio.sleep(self._seconds)
        return await self.now(workspace)


def newest_event(workspace: Workspace) -> int:
    """Number of the newest event; 0 where none can be read."""
    try:
        return max((each.number for each in Journal(workspace.journal).events(last=1)), default=0)
    except FactoryError:
        return 0


async def follow(
    workspace: Workspace, last_seen: int | None, goes_on: Callable[[], bool], lookout: Lookout
) -> AsyncIterator[ServerSentEvent]:
    """Topics as they change; heartbeats between them are FastAPI's.

    Args:
        workspace: that is looked at.
        last_seen: the last event of the journal that the browser knows; None for none.
        goes_on: False ends the stream.
        lookout: looks.
    """
    before, number = await lookout.now(workspace)
    missed = sorted(before) if last_seen is not None and last_seen != number else []
    yield ServerSentEvent(data=missed, event="changed", id=str(number), retry=3000)
    while goes_on():
        now, number = await lookout.later(workspace)
        changed = sorted(name for name in now if now[name] != before[name])
        if changed:
            yield ServerSentEvent(data=changed, event="changed", id=str(number))
        before = now


def _stamp(places: Sequence[Path | str]) -> str:
    states = " ".join(
        each if isinstance(each, str) else str(files.stamp_of(each)) for each in places
    )
    return hashlib.blake2b(states.encode(), digest_size=8).hexdigest()
