"""How the loop stands: what waits, what a round waits for, who watches. Looking changes nothing."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.ownership import Owner, living_owner
from llama_factory.core.sentences import listed as joined
from llama_factory.core.zones import zone_of
from llama_factory.data.sources.feedback import read_feedback
from llama_factory.data.sources.inbox import shown
from llama_factory.rounds import draft as drafts
from llama_factory.rounds import loop_sentences as texts
from llama_factory.rounds.arrivals import InboxView
from llama_factory.rounds.loop_settings import LoopSettings
from llama_factory.rounds.pacing import LoopDecision, RoundHistory, decide, read_history
from llama_factory.rounds.series import MonitorNumbers
from llama_factory.rounds.settings import LearningConfig
from llama_factory.rounds.triggers import Situation
from llama_factory.rounds.triggers.drift import DriftAbove
from llama_factory.rounds.triggers.feedback import ThumbsDown
from llama_factory.rounds.waiting import (
    WaitingRows,
    count_waiting,
    decided_files,
    decided_together,
)
from llama_factory.versions import releases, store
from llama_factory.versions.forgotten import FILE as FORGOTTEN
from llama_factory.versions.journal import Event, Journal, What
from llama_factory.versions.version import MANIFEST, ModelVersion
from llama_factory.versions.workspace import Workspace

OF_PAUSES: tuple[What, ...] = ("paused", "resumed")
OF_ROUNDS: tuple[What, ...] = (
    *("round begun", "round ended", "round failed", "parked", "unparked"),
    *OF_PAUSES,
)
NUM_EVENTS = 5000
"""So many of the newest events of rounds are looked at."""


@dataclass(frozen=True)
class LoopConfig:
    """The settings that the loop needs.

    Attributes:
        learning: of a round.
        loop: of what begins it.
    """

    learning: LearningConfig
    loop: LoopSettings


@dataclass(frozen=True)
class LoopStatus:
    """How the loop stands.

    Attributes:
        decision: whether a round begins, and why not.
        rows: new rows that wait.
        files: SHA-256 by name of the files that a round would take.
        identity: of what waits.
        growing: files that are waited for.
        left: what else lies in the inbox, with the reason.
        parked: files of rounds that failed again and again.
        production: the released version.
        watcher: who watches; None where nobody does.
        is_interrupted: whether a round was interrupted, and goes on.
        is_paused: whether somebody paused the loop.
    """

    decision: LoopDecision
    rows: int
    files: Mapping[str, str]
    identity: str
    growing: tuple[str, ...]
    left: Mapping[str, str]
    parked: tuple[str, ...]
    production: str
    watcher: Owner | None
    is_interrupted: bool = False
    is_paused: bool = False

    @property
    def sentence(self) -> str:
        """Why a round begins, or why none does."""
        parts = [self.decision.sentence]
        if self.growing:
            count = len(self.growing)
            one = texts.ONE_IS_GROWING()
            parts.append(one if count == 1 else texts.STILL_GROWING(count=count))
        if self.watcher is None and not self.decision.held:
            parts.append(texts.NOBODY_WATCHES())
        return joined(parts)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "why": self.sentence,
            "decision": self.decision.to_json(),
            "rows": self.rows,
            "files": {shown(name): digest for name, digest in self.files.items()},
            "growing": list(self.growing),
            "left": dict(self.left),
            "parked": list(self.parked),
            "production": self.production,
            "watcher": vars(self.watcher) if self.watcher else None,
            "interrupted": self.is_interrupted,
            "paused": self.is_paused,
        }


class LoopView:
    """Looks at the loop of one workspace again and again; rows are counted anew when they changed.

    Attributes:
        workspace: whose loop.
        clock: gives the time, with a zone.
    """

    def __init__(self, workspace: Workspace, clock: Callable[[], datetime]) -> None:
        self.workspace = workspace
        self.clock = clock
        self._journal = Journal(workspace.journal)
        self._counted: tuple[object, WaitingRows] = (None, WaitingRows())
        self._counted_at = -math.inf
        self._decided: tuple[object, dict[str, frozenset[str]]] = (None, {})
        self._numbers = MonitorNumbers(workspace)

    def status(self, config: LoopConfig, view: InboxView) -> LoopStatus:
        """How the loop stands.

        Args:
            config: settings.
            view: of the inbox.

        Raises:
            FactoryError: settings, releases or files keep anything from being learned.
        """
        now = self.clock()
        listed = self._journal.events(what=OF_ROUNDS, last=NUM_EVENTS)
        history, parked = read_history(listed, now), parked_files(listed)
        production = store.get(self.workspace, releases.PRODUCTION, verify=False)
        may_take = {name: sha for name, sha in view.files.items() if sha not in parked}
        decided = decided_files(self._together(config, production), may_take.values())
        fresh = {name: sha for name, sha in may_take.items() if sha not in decided}
        waiting = self._count(config, production, fresh, is_moving=bool(view.growing))
        situation = self._situation(config.loop, history, waiting, now)
        interrupted = is_interrupted(self.workspace)
        decision = decide(
            situation if not interrupted else replace(situation, rows=max(1, situation.rows)),
            history,
            config.loop,
            "" if interrupted else waiting.identity,
        )
        if interrupted and not decision.due:
            decision = replace(decision, due=(texts.GOES_ON(),), waiting=())
        return LoopStatus(
            decision=replace(
                decision, held=(*decision.held, *self._holds(view), *pause_of(listed))
            ),
            rows=waiting.rows,
            files=may_take,
            identity=waiting.identity,
            growing=view.growing,
            left=_left(view, waiting, fresh, decided),
            parked=tuple(shown(name) for name, sha in view.files.items() if sha in parked),
            production=production.id,
            watcher=living_owner(self.workspace.watch_lock),
            is_interrupted=interrupted,
            is_paused=bool(pause_of(listed)),
        )

    def _together(self, config: LoopConfig, production: ModelVersion) -> dict[str, frozenset[str]]:
        """Reports of versions are read where there are others than before."""
        state = (production.id, store.ids(self.workspace), drafts.sections(config.learning))
        if self._decided[0] != state:
            decided = decided_together(self.workspace, config.learning, production)
            self._decided = state, decided
        return self._decided[1]

    def _count(
        self,
        config: LoopConfig,
        production: ModelVersion,
        fresh: Mapping[str, str],
        *,
        is_moving: bool,
    ) -> WaitingRows:
        """What waits; while files still move it is not counted anew with each of them."""
        space = self.workspace
        stamps = [_stamps(folder) for folder in (space.feedback, space.review)]
        stamps.append((files.stamp_of(space.folder / FORGOTTEN),))
        state = (production.id, tuple(fresh.items()), drafts.sections(config.learning), stamps)
        is_recent = time.monotonic() - self._counted_at < config.loop.scan_seconds
        if self._counted[0] != state and not (is_moving and is_recent):
            counted = count_waiting(space, config.learning, production, fresh)
            self._counted, self._counted_at = (state, counted), time.monotonic()
        return self._counted[1]

    def _situation(
        self, loop: LoopSettings, history: RoundHistory, waiting: WaitingRows, now: datetime
    ) -> Situation:
        last = max(history.begun, default=None)
        return Situation(
            now=now,
            rows=waiting.rows,
            oldest=self._oldest(waiting, history, now) if waiting.rows else None,
            last_round=last,
            last_end=history.ended,
            zone=zone_of(loop.timezone),
            ratings=self._ratings(last) if _has(loop, ThumbsDown) else (),
            readings=self._numbers.latest() if _has(loop, DriftAbove) else {},
        )

    def _oldest(self, waiting: WaitingRows, history: RoundHistory, now: datetime) -> datetime:
        """Since when something waits: when it was seen first; what is not in a file, since the last
        round."""
        if not waiting.files:
            return history.ended or now
        times = self._journal.times_of(map(seen_key, waiting.files.values()))
        known = [datetime.fromisoformat(each) for each in times]
        return min((each for each in known if each <= now), default=now)

    def _ratings(self, since: datetime | None) -> Sequence[bool]:
        after = since.astimezone(UTC).isoformat(timespec="seconds") if since else ""
        given = read_feedback(self.workspace.feedback).current
        return [each.rating == "down" for each in given if each.when > after]

    def _holds(self, view: InboxView) -> list[str]:
        holds = [view.problem] if view.problem else []
        if files.is_held(self.workspace.lock):
            owner = living_owner(self.workspace.lock)
            holds.append(_owned(owner) if owner else texts.ANOTHER_PROCESS())
        return holds


def seen_key(digest: str) -> str:
    """Key of the event that a file was seen, by its content."""
    return f"seen:{digest}"


def pause_of(listed: Sequence[Event]) -> tuple[str, ...]:
    """Why no round begins by itself although nothing else keeps it: somebody paused the loop."""
    last = next((each for each in reversed(listed) if each.what in OF_PAUSES), None)
    if last is None or last.what == "resumed":
        return ()
    name = last.data.get("name") or last.who
    return (texts.PAUSED(name=name, time=last.time),)


def _owned(owner: Owner) -> str:
    kinds = (texts.RUNNING_A_ROUND(), texts.CONSOLIDATING())
    what = next((each for each in kinds if each == owner.what), owner.what)
    return texts.OWNED(pid=owner.pid, what=what, host=owner.host, started=owner.started)


def parked_files(listed: Sequence[Event]) -> set[str]:
    """SHA-256 of files that are parked: no round of the watcher takes them."""
    parked: set[str] = set()
    for event in listed:
        if event.what == "parked":
            parked |= set(event.data["files"].values())
        elif event.what == "unparked":
            parked.clear()
    return parked


def is_interrupted(workspace: Workspace) -> bool:
    """Whether a round was begun, or its version made, and its end is missing."""
    if drafts.read_plan(workspace) is not None or (workspace.building / MANIFEST).exists():
        return True
    newest = store.ids(workspace)[-1]
    history = releases.read(workspace.releases).history
    is_named = any(newest in each.aliases.values() for each in history)
    return not is_named and ModelVersion.read(workspace.versions / newest).is_base is False


def _left(
    view: InboxView,
    waiting: WaitingRows,
    fresh: Mapping[str, str],
    decided: Mapping[str, str],
) -> dict[str, str]:
    """What lies in the inbox and begins no round, with the reason."""
    left = {each.file: each.reason for each in view.refused}
    left |= {shown(name): why for name, why in (waiting.useless or {}).items() if name in fresh}
    known = {name: decided[sha] for name, sha in view.files.items() if sha in decided}
    return left | {shown(name): texts.DECIDED(version=each) for name, each in known.items()}


def _has(loop: LoopSettings, kind: type) -> bool:
    return any(isinstance(each, kind) for each in loop.triggers)


def _stamps(folder: Path) -> tuple[object, ...]:
    """Changes whenever a file of a folder does."""
    if not folder.is_dir():
        return ()
    states = ((path.name, path.stat()) for path in sorted(folder.glob("*.jsonl")))
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
