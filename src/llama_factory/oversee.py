"""The verbs of whoever oversees the loop: watch, journal, pause, jobs, progress, settings.

As those of `run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Literal

from llama_factory.config.changes import Changes
from llama_factory.config.loading import load_config
from llama_factory.core.own_command import set_options
from llama_factory.versions import journal as journals
from llama_factory.versions.journal import Journal, JournalEntry, events
from llama_factory.versions.journal_facts import reconcile
from llama_factory.versions.workspace import PathLike, Workspace

if TYPE_CHECKING:
    from llama_factory.jobs.background import BackgroundJob
    from llama_factory.rounds.progress import RoundProgress
    from llama_factory.rounds.status import LoopConfig, LoopStatus
    from llama_factory.rounds.watch import Watcher
    from llama_factory.versions.journal import Event, What


def watcher(
    folder: PathLike, changes: Sequence[str] = (), report: Callable[[Event], None] | None = None
) -> Watcher:
    """What watches a workspace and learns by itself: `run(stop)` does so until asked to stop.

    Args:
        folder: the workspace.
        changes: settings of all rounds, as after `--set`.
        report: is told each new event of the journal.
    """
    from llama_factory.rounds.watch import Watcher

    workspace = Workspace.open(folder)
    load = partial(_loop_config, workspace, changes)
    return Watcher(workspace, load, changes=changes, report=report or (lambda event: None))


def why(folder: PathLike, changes: Changes = ()) -> LoopStatus:
    """How the loop stands: what waits, what a round waits for, why nothing happens."""
    return looks_at_loop(folder, changes)()


def looks_at_loop(folder: PathLike, changes: Changes = ()) -> Callable[[], LoopStatus]:
    """What tells how the loop stands, again and again: only what changed is read anew.

    Args:
        folder: the workspace.
        changes: settings, as after `--set`.
    """
    from llama_factory.rounds.arrivals import InboxWatch
    from llama_factory.rounds.status import LoopView

    workspace = Workspace.open(folder)
    inbox = InboxWatch(workspace.inbox, 0.0)
    loop = LoopView(workspace, lambda: datetime.now(UTC))

    def look() -> LoopStatus:
        config = _loop_config(workspace, changes)
        inbox.settle_seconds = config.loop.settle_seconds
        return loop.status(config, inbox.look())

    return look


def _loop_config(workspace: Workspace, changes: Changes) -> LoopConfig:
    from llama_factory.rounds.status import LoopConfig

    config = load_config(workspace.settings, changes)
    return LoopConfig(config, config.loop)


def journal(
    folder: PathLike, *, what: Sequence[What] = (), last: int | None = None, after: int = 0
) -> list[Event]:
    """What happened in a workspace, oldest first.

    Args:
        folder: the workspace.
        what: only these kinds of events; none: all.
        last: only so many, the newest.
        after: only those with a higher number.
    """
    workspace = Workspace.open(folder)
    reconcile(workspace)
    return events(workspace.journal, after=after, what=what, last=last)


def production_at(folder: PathLike, when: str) -> tuple[str, Event | None]:
    """Which version answered users at a time, and the event that released it.

    Args:
        folder: the workspace.
        when: `14:05` is today's on this machine's clock; else a date and a time, ISO 8601.
    """
    time = journals.read_time(when, datetime.now().astimezone())
    return journals.production_at(journal(folder), time)


def unpark(folder: PathLike) -> int:
    """Let the watcher try again what is parked; returns how many files that are."""
    from llama_factory.rounds.status import OF_ROUNDS, parked_files

    workspace = Workspace.open(folder)
    book = Journal(workspace.journal)
    parked = parked_files(book.events(what=OF_ROUNDS))
    if parked:
        book.add(JournalEntry("unparked", "person", data={"files": sorted(parked)}))
    return len(parked)


def pause(folder: PathLike, who: str = "") -> bool:
    """Let no round begin by itself; one that runs goes on. False where that holds already."""
    return _pause(folder, "paused", who)


def resume(folder: PathLike, who: str = "") -> bool:
    """Let rounds begin by themselves again; False where they do already."""
    return _pause(folder, "resumed", who)


def _pause(folder: PathLike, what: Literal["paused", "resumed"], who: str) -> bool:
    from llama_factory.rounds.status import OF_PAUSES

    book = Journal(Workspace.open(folder).journal)
    last = book.events(what=OF_PAUSES, last=1)
    if (last[-1].what if last else "resumed") == what:
        return False
    book.add(JournalEntry(what, "person", data={"name": who} if who else {}))
    return True


def begin_job(
    folder: PathLike, words: Sequence[str], changes: Sequence[str] = (), who: str = ""
) -> BackgroundJob:
    """Start a command on a workspace that goes on when whoever began it leaves.

    Args:
        folder: the workspace.
        words: the command and what comes after the workspace's folder, such as `["learn"]`.
        changes: settings, as after `--set`; wrong ones are refused at once.
        who: asks for it.
    """
    from llama_factory.jobs import background

    workspace = Workspace.open(folder)
    load_config(workspace.settings, changes)
    command = [*words[:1], str(workspace.folder), *words[1:], *set_options(changes)]
    return background.begin(workspace, command, who)


def jobs(folder: PathLike, last: int | None = None) -> list[BackgroundJob]:
    """The jobs of a workspace, the newest first."""
    from llama_factory.jobs.background import list_jobs

    return list_jobs(Workspace.open(folder), last)


def job_log(folder: PathLike, job_id: str) -> tuple[BackgroundJob, str]:
    """A job and the end of what it printed."""
    from llama_factory.jobs.background import read_job, read_log

    workspace = Workspace.open(folder)
    return read_job(workspace, job_id), read_log(workspace, job_id)


def stop_job(folder: PathLike, job_id: str) -> BackgroundJob:
    """Ask a job to stop at a safe point; `learn` goes on from there when it is begun again."""
    from llama_factory.jobs import background

    return background.stop_job(Workspace.open(folder), job_id)


def looks_at_progress(folder: PathLike, most: int = 2000) -> Callable[[], RoundProgress | None]:
    """What tells how far the round in progress is, again and again; only what changed is read.

    Args:
        folder: the workspace.
        most: so many updates, the newest.

    Returns:
        Gives the progress; None where no round was begun.
    """
    from llama_factory.rounds.progress import RoundView

    return RoundView(Workspace.open(folder), most).progress


def round_log(folder: PathLike) -> str:
    """The end of what the round that the watcher began last printed; empty where none did."""
    from llama_factory.rounds.round_process import read_log

    return read_log(Workspace.open(folder))


def stop_round(folder: PathLike) -> bool:
    """Ask the round in progress to stop at a safe point; False where none runs on this machine."""
    from llama_factory.rounds.progress import stop

    return stop(Workspace.open(folder))


def settings_text(folder: PathLike) -> tuple[str, str]:
    """The settings file as it is, and its fingerprint, which `save_settings` wants."""
    from llama_factory.config.editing import read_settings

    return read_settings(Workspace.open(folder).settings)


def settings_change(folder: PathLike, text: str) -> list[str]:
    """How a text differs from the settings file, as lines of a unified difference.

    Raises:
        ConfigError: no settings could be read from it; all problems with their lines.
    """
    from llama_factory.config.editing import changed_lines

    return changed_lines(Workspace.open(folder).settings, text)


def save_settings(folder: PathLike, text: str, seen: str) -> None:
    """Write the settings file, if it still is what somebody saw when they began to edit it.

    Args:
        folder: the workspace.
        text: of the whole file.
        seen: fingerprint of the file then, as `config.editing` makes it.

    Raises:
        ConfigError: the text is wrong, or the file was changed meanwhile.
    """
    from llama_factory.config.editing import save

    save(Workspace.open(folder).settings, text, seen)
