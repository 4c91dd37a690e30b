"""The loop that runs by itself: sees what arrives, begins rounds, and writes down what came of it.

Nothing of it holds anything that is lost with the process: what files come to is decided by the
round, what is released by `releases.json`, and the journal is brought in line with both at each
look. A step is written down before it is taken; taking it again changes nothing.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from llama_factory.core import files
from llama_factory.core.errors import FactoryError
from llama_factory.core.own_command import set_options
from llama_factory.core.ownership import owned
from llama_factory.rounds import housekeeping
from llama_factory.rounds.arrivals import InboxView, InboxWatch
from llama_factory.rounds.live_settings import LiveSettings
from llama_factory.rounds.outbox import Outbox
from llama_factory.rounds.round_ends import Started, close_lost, end_of, park
from llama_factory.rounds.round_process import ProcessEnd, RoundProcess
from llama_factory.rounds.status import LoopConfig, LoopStatus, LoopView, seen_key
from llama_factory.rounds.wakeup import wait_for_change
from llama_factory.versions.journal import Event, Journal, JournalEntry
from llama_factory.versions.journal_facts import Facts
from llama_factory.versions.workspace import Workspace

BUSY_SECONDS = 0.5
"""How often a round that runs is looked at."""


class Watcher:
    """Watches one workspace. Only one process does at a time.

    Attributes:
        workspace: that it watches.
        status: how the loop stood at the last look; None before the first.
    """

    def __init__(
        self,
        workspace: Workspace,
        load: Callable[[], LoopConfig],
        *,
        changes: Sequence[str] = (),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        report: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """Prepare to watch; `run` begins.

        Args:
            workspace: to watch.
            load: reads the settings; they are read again when the file changes.
            changes: settings of all rounds, as after `--set`.
            clock: gives the time, with a zone.
            report: is told each new event of the journal.
        """
        self.workspace = workspace
        self.status: LoopStatus | None = None
        self._changes = tuple(changes)
        self._clock = clock
        self._report = report
        self._journal = Journal(workspace.journal)
        self._view = LoopView(workspace, clock)
        self._outbox = Outbox(workspace)
        self._settings = LiveSettings(workspace.settings, load)
        self._inbox = InboxWatch(workspace.inbox, self._config.loop.settle_seconds)
        self._started: Started | None = None
        self._reported = max((e.number for e in self._journal.events(last=1)), default=0)
        self._house = housekeeping.House(workspace, self._journal)
        self._complaint = ""
        self._noted: set[str] = set()
        self._facts = Facts(workspace)
        self._settles_in: float | None = None

    @property
    def _config(self) -> LoopConfig:
        return self._settings.now

    def run(self, stop: threading.Event) -> None:
        """Watch until asked to stop; a round that runs then is asked to stop at a safe point.

        Raises:
            VersionError: somebody else watches; the message names who.
        """
        self._settings.require_receivers()
        with owned(self.workspace.watch_lock, what="watching"):
            try:
                while not stop.is_set():
                    self.look()
                    self._wait(stop)
            finally:
                self._leave()

    def run_once(self) -> LoopStatus:
        """Look once, and do to its end what is due: for cron and tests.

        Returns:
            How the loop stood before anything was done.

        Raises:
            VersionError: somebody else watches; the message names who.
        """
        self._settings.require_receivers()
        with owned(self.workspace.watch_lock, what="watching"):
            try:
                view = self._inbox.look()
                if view.settles_in is not None:
                    time.sleep(view.settles_in)
                self.tick()
                status = self.status
                while self._started is not None:
                    time.sleep(BUSY_SECONDS / 10)
                    self._follow()
                self.tick(may_begin=False)
                self._outbox.finish()
                self._report_news()
            finally:
                self._leave()
        assert status is not None
        return status

    def look(self) -> None:
        """`tick`, whatever comes: a full disk or a folder that is gone is waited for."""
        try:
            self.tick()
            self._complaint = ""
        except (FactoryError, OSError, sqlite3.Error) as error:
            self._complain(str(error) or type(error).__name__)

    def tick(self, *, may_begin: bool = True) -> None:
        """Look once, and begin what is due."""
        self._read_settings()
        config = self._config
        view = self._inbox.look()
        self._settles_in = view.settles_in
        self._note_files(view)
        self._facts.write_new()
        self._follow()
        if (
            self._started is None
        ):  # beside a round that runs, looking costs time and changes nothing
            if not files.is_held(self.workspace.lock):
                close_lost(self.workspace, self._journal, config.loop.retry)
            self.status = self._view.status(config, view)
            if may_begin:
                self._begin_due(config, self.status)
        self._send(config)
        self._report_news()

    def _begin_due(self, config: LoopConfig, status: LoopStatus) -> None:
        if status.decision.begins:
            data = {
                "files": dict(status.files),
                "rows": status.rows,
                "why": list(status.decision.due),
                "identity": status.identity,
            }
            entry = JournalEntry("round begun", "watcher", status.production, data)
            self._start(entry, config, lambda number: ["learn", "--intent", str(number)])
        elif not status.decision.held:
            if self._house.is_consolidation_due(config.loop, self._clock()):
                entry = JournalEntry("consolidation begun", "watcher", status.production)
                self._start(entry, config, lambda number: ["consolidate"])
            else:
                self._house.collect(config.loop.keep, self._clock())

    def _start(
        self, entry: JournalEntry, config: LoopConfig, words: Callable[[int], list[str]]
    ) -> None:
        """Write the intent down, then begin."""
        number = self._journal.add(entry)
        assert number is not None
        verb, *options = words(number)
        changes = set_options(self._changes)
        command = [verb, str(self.workspace.folder), "--json", *options, *changes]
        process = RoundProcess(self.workspace, command, config.loop.train)
        self._started = Started(self._journal.event(number), process)

    def _follow(self) -> None:
        """Write down how the round ended, if it did."""
        if self._started is None:
            return
        end = self._started.process.poll()
        if end is not None:
            self._finished(self._started, end)

    def _finished(self, started: Started, end: ProcessEnd) -> None:
        self._facts.write_new()
        self._journal.add(end_of(started.intent, end))
        self._started = None
        if end.code and not end.was_stopped:
            park(self.workspace, self._journal, started.intent, self._config.loop.retry)

    def _note_files(self, view: InboxView) -> None:
        fresh = {name: sha for name, sha in view.files.items() if sha not in self._noted}
        self._journal.append(
            JournalEntry(
                "file seen", "watcher", data={"file": name, "sha256": sha}, key=seen_key(sha)
            )
            for name, sha in fresh.items()
        )
        self._noted = set(view.files.values())

    def _read_settings(self) -> None:
        if problem := self._settings.read():
            self._journal.add(JournalEntry("alert", "watcher", data={"text": problem}))
        self._inbox.settle_seconds = self._config.loop.settle_seconds

    def _send(self, config: LoopConfig) -> None:
        receivers = config.loop.notify
        if receivers:
            self._outbox.collect(receivers, self._clock())
            self._outbox.send_due(receivers, self._clock())

    def _report_news(self) -> None:
        for event in self._journal.events(after=self._reported):
            self._reported = event.number
            self._report(event)

    def _complain(self, text: str) -> None:
        """Once, not at every look."""
        if text == self._complaint:
            return
        self._complaint = text
        alert = JournalEntry("alert", "watcher", data={"text": text})
        with contextlib.suppress(FactoryError, OSError, sqlite3.Error):
            self._journal.add(alert)
            self._report_news()
            return
        self._report(Event(0, "", "watcher", "alert", "", alert.data))

    def _wait(self, stop: threading.Event) -> None:
        """Until a file moves, a file may have settled, or it is time to look anyway."""
        seconds = self._config.loop.scan_seconds
        if self._started is not None:
            seconds = min(seconds, BUSY_SECONDS)
        if self._settles_in is not None:
            seconds = min(seconds, self._settles_in)
        wait_for_change(self.workspace.inbox, stop, timedelta(seconds=seconds))

    def _leave(self) -> None:
        if self._started is not None:
            self._started.process.stop()
            with contextlib.suppress(FactoryError, OSError, sqlite3.Error):
                self._follow()
        self._outbox.close()
