"""What the watcher does between rounds: consolidation by the calendar, removal of old versions."""

from datetime import datetime, timedelta

from llama_factory.core.errors import VersionError
from llama_factory.core.zones import zone_of
from llama_factory.rounds.loop_settings import LoopSettings
from llama_factory.rounds.pacing import quiet_until
from llama_factory.versions import gc, releases, store
from llama_factory.versions.journal import Journal, JournalEntry, Who
from llama_factory.versions.workspace import Workspace

COLLECT_EVERY = timedelta(hours=1)


class House:
    """Remembers what was looked at, so that it is not looked at at every moment."""

    def __init__(self, workspace: Workspace, journal: Journal) -> None:
        self._workspace = workspace
        self._journal = journal
        self._basis: tuple[str, datetime | None] | None = None
        self._collected: tuple[object, datetime] | None = None

    def is_consolidation_due(self, loop: LoopSettings, now: datetime) -> bool:
        """Whether the updates of all rounds are to be put into the weights now."""
        every = loop.consolidate.every
        if every is None:
            return False
        if loop.not_between and quiet_until(loop.not_between, now, zone_of(loop.timezone)):
            return False
        since = self._since()
        return since is not None and now - since >= every and not self._has_failed(loop, now)

    def _since(self) -> datetime | None:
        """When the released lineage was consolidated last, or began; None where nothing is to be
        done."""
        production = releases.read(self._workspace.releases).production
        if self._basis is None or self._basis[0] != production:
            lineage = store.lineage(store.get(self._workspace, production, verify=False))
            done = [each for each in lineage if "consolidated" in each.report]
            if not lineage or lineage[-1] in done:
                self._basis = production, None
            else:
                basis = done[-1] if done else lineage[0]
                self._basis = production, datetime.fromisoformat(basis.created)
        return self._basis[1]

    def _has_failed(self, loop: LoopSettings, now: datetime) -> bool:
        """Whether it failed lately: it is tried again as a round is, then after `every`."""
        listed = self._journal.events(what=["consolidated", "consolidation failed"], last=50)
        failed = []
        for event in reversed(listed):
            if event.what == "consolidated":
                break
            failed.append(datetime.fromisoformat(event.time))
        if not failed:
            refused = listed and listed[-1].data.get("released") is False
            times = [datetime.fromisoformat(listed[-1].time)] if refused else []
            wait = loop.consolidate.every or timedelta()
        else:
            times = failed[:1]
            wait = loop.retry.backoff * 2 ** min(len(failed) - 1, 16)
            if len(failed) > loop.retry.times:
                wait = max(wait, loop.consolidate.every or timedelta())
        return any(timedelta() <= now - each < wait for each in times)

    def collect(self, keep: gc.KeepSettings, now: datetime) -> None:
        """Remove old versions, if it was not done since something changed, or in the last hour."""
        state = (keep, tuple(store.ids(self._workspace)))
        if self._collected is not None:
            known, at = self._collected
            if known == state and timedelta() <= now - at < COLLECT_EVERY:
                return
        self._collected = state, now
        try:
            note_removed(self._journal, gc.collect(self._workspace, keep, now=now), "watcher")
        except VersionError:
            return  # somebody works here: at another time


def note_removed(journal: Journal, removed: list[gc.RemovedVersion], who: Who = "watcher") -> None:
    """Write down which versions were removed."""
    if removed:
        data = {
            "versions": [each.id for each in removed],
            "bytes": sum(each.bytes for each in removed),
        }
        journal.add(JournalEntry("gc", who, data=data))
