"""The state of a canary on disk, and the releases that it moves. Several servers may share it.

Every change is made under one lock, from what the files say at that moment, so restarts, several
servers and operators never overwrite each other. A decision is written down before it is carried
out, and is carried out only if production and candidate are still what it was about.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import FactoryError, VersionError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.serving.canary import Canary, CanarySettings, Ending, News, State
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Journal, JournalEntry
from llama_factory.versions.releases import Standing
from llama_factory.versions.workspace import Workspace

DAMAGED = kind(
    "problem.canary_damaged",
    "{path} is damaged ({error}). Delete it: a canary that ran begins anew, and releases "
    "stay as they are.",
)

LOCK_SECONDS = 10.0
NUM_EARLIER = 50
"""How many ended canaries are kept."""
BY_CANARY = "by the canary"
IsWanted = Callable[[Workspace, Standing], bool]


@dataclass(frozen=True)
class CanaryRecord:
    """The last canary and those before it.

    Attributes:
        last: the one that runs, or ran last; None where there was none.
        asked: a version that an operator wants tried, with the fraction of callers.
        earlier: plain values of ended ones, oldest first.
    """

    last: Canary | None = None
    asked: tuple[str, float] | None = None
    earlier: tuple[dict[str, Any], ...] = ()


def read(workspace: Workspace) -> CanaryRecord:
    """What is known of canaries; a missing file means that there was none.

    Raises:
        VersionError: the file is damaged.
    """
    path = workspace.canary
    if not path.exists():
        return CanaryRecord()
    try:
        values = files.read_json(path)
        last = Canary.from_json(values["last"]) if values["last"] else None
        asked = tuple(values["asked"]) if values["asked"] else None
        return CanaryRecord(last, asked, tuple(values["earlier"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VersionError(DAMAGED(path=path, error=error)) from error


def passed_gate(workspace: Workspace, standing: Standing) -> bool:
    """Whether the gate would have released the candidate in place of this production version.

    A version that was refused or held for a person is a candidate too; nobody is given its answers
    unless an operator asks for that.
    """
    try:
        version = store.get(workspace, standing.candidate, verify=False)
    except FactoryError:
        return False
    verdict = version.report.get("verdict") or {}
    return bool(verdict.get("promoted")) and version.parent == standing.production


def start(workspace: Workspace, version: str, fraction: float) -> None:
    """Make a version the candidate and ask servers to try it, whatever the gate said.

    Raises:
        VersionError: it is released already.
    """
    with _locked(workspace):
        if releases.read(workspace.releases).production == version:
            raise VersionError(f"{version} is the released version: there is nothing to try.")
        known = read(workspace)
        last = known.last
        if last is not None and last.state == "running":
            last = _ended(last, "moved", f"a canary of {version} was started")
        _write(workspace, CanaryRecord(last, (version, fraction), known.earlier))
        standing = releases.read(workspace.releases).standing
        if standing is not None and standing.candidate == version:  # tried before: begin anew
            releases.withdraw_candidate(workspace.releases, standing, "canary: begins anew")
        releases.hold(workspace.releases, version, "canary: started by hand")


def abort(workspace: Workspace) -> str:
    """Take the candidate back by hand; returns its id.

    Raises:
        VersionError: there is no candidate.
    """
    with _locked(workspace):
        known = read(workspace)
        standing = releases.read(workspace.releases).standing
        if standing is None:
            raise VersionError(f"{workspace.folder}: there is no candidate, so no canary runs.")
        releases.withdraw_candidate(workspace.releases, standing, "canary: aborted by hand")
        last = known.last
        if last is not None and last.standing == standing and not last.ended:
            last = _ended(last, "aborted", "aborted by hand")
        _write(workspace, CanaryRecord(last, None, known.earlier))
        return standing.candidate


def advance(
    workspace: Workspace,
    settings: CanarySettings,
    news: News | None = None,
    is_wanted: IsWanted = passed_gate,
) -> Canary | None:
    """Begin, go on with or end the canary, as releases.json and a server's news want it.

    Args:
        workspace: whose candidate is tried.
        settings: of canaries.
        news: what was observed; None where nothing was.
        is_wanted: whether a candidate is tried that no operator asked for.

    Returns:
        The canary that runs or ran last.
    """
    with _locked(workspace):
        known = read(workspace)
        followed = _followed(workspace, known, settings, is_wanted)
        last = followed.last
        if last is not None and news is not None:
            last = last.after(news)
        decision = _decision(last, settings, news)
        if last is not None and decision is not None:
            last = replace(last, decided=decision)
            _write(workspace, replace(followed, last=last))  # before anything is moved
            last = _carried_out(workspace, last, decision)
        if (changed := replace(followed, last=last)) != known:
            _write(workspace, changed)
        _note_end(workspace, known.last, last)
        return last


def _followed(
    workspace: Workspace, known: CanaryRecord, settings: CanarySettings, is_wanted: IsWanted
) -> CanaryRecord:
    """Ended where the release was moved; begun where a candidate is to be tried."""
    current = releases.read(workspace.releases)
    standing, last = current.standing, known.last
    if last is not None and last.decided is not None and not last.ended:
        last = _carried_out(workspace, last, last.decided)  # a crash interrupted it
        standing = releases.read(workspace.releases).standing
    if last is not None and last.state == "running" and last.standing != standing:
        why = current.history[-1].why if current.history else "releases.json is gone"
        last = _ended(last, "moved", f"the release was moved: {why}")
    known = replace(known, last=last)
    if standing is None or (last is not None and last.standing == standing):
        return known
    asked = known.asked if known.asked and known.asked[0] == standing.candidate else None
    if asked is None and not is_wanted(workspace, standing):
        return known
    fraction = asked[1] if asked else settings.fraction
    begun = Canary.begun(standing, fraction, settings, now())
    ended = [last.to_json()] if last is not None else []
    return CanaryRecord(begun, None, (*known.earlier, *ended)[-NUM_EARLIER:])


def _decision(last: Canary | None, settings: CanarySettings, news: News | None) -> Ending | None:
    if last is None or not last.is_running:
        return None
    mine = news is not None and news.standing == last.standing
    return last.decide(settings, news.cannot_serve if mine and news else "")


def _carried_out(workspace: Workspace, canary: Canary, decision: Ending) -> Canary:
    """The canary after its decision moved the release, or did not because somebody else had."""
    path, standing = workspace.releases, canary.standing
    if decision.state == "undecided":
        return _ended(canary, "undecided", decision.why)
    if decision.state == "promoted":
        why = f"promoted {BY_CANARY}: {decision.why}"
        is_done = releases.promote_candidate(path, standing, why)
    else:
        why = f"taken back {BY_CANARY}: {decision.why}"
        is_done = releases.withdraw_candidate(path, standing, why)
    history = releases.read(path).history
    if is_done or any(entry.why == why for entry in history[standing.since :]):
        return _ended(canary, decision.state, decision.why)
    moved = history[-1].why if history else "releases.json is gone"
    return _ended(canary, "moved", f"the release was moved: {moved}")


def _ended(canary: Canary, state: State, why: str) -> Canary:
    return replace(canary, state=state, why=why, ended=now(), decided=None)


def _note_end(workspace: Workspace, before: Canary | None, after: Canary | None) -> None:
    """Write the end of a canary into the journal; what keeps that from being done costs nothing."""
    if after is None or not after.ended or (before is not None and before == after):
        return
    data = {"text": f"{after.state.replace('_', ' ')}: {after.why}", "state": after.state}
    version, key = after.standing.candidate, f"canary:{after.standing.since}:{after.started}"
    entry = JournalEntry("canary", "canary", version, data, key, after.ended)
    with contextlib.suppress(VersionError, sqlite3.Error):
        Journal(workspace.journal).add(entry)


def _write(workspace: Workspace, canaries: CanaryRecord) -> None:
    values = {
        "last": canaries.last.to_json() if canaries.last else None,
        "asked": list(canaries.asked) if canaries.asked else None,
        "earlier": list(canaries.earlier),
    }
    files.write_json(workspace.canary, values)


def _locked(workspace: Workspace) -> AbstractContextManager[None]:
    path: Path = workspace.canary.with_suffix(".lock")
    return files.locked(path, what="deciding about a candidate", seconds=LOCK_SECONDS)
