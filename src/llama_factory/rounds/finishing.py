"""The end of a round: its folder becomes a version, and the gate's verdict moves the release."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.progress import Progress
from llama_factory.core.times import now
from llama_factory.core.types import Memory
from llama_factory.data.sources import inbox
from llama_factory.evaluation.lineage_scores import LineageScores, read_lineage_scores
from llama_factory.rounds import draft as drafts
from llama_factory.rounds import gate_sentences as texts
from llama_factory.rounds.gate import Verdict, read_verdict
from llama_factory.rounds.settings import LearningConfig
from llama_factory.versions import memory, releases, store
from llama_factory.versions.version import REPORT, SETTINGS, ModelVersion
from llama_factory.versions.workspace import Workspace

Draw = Callable[[LineageScores, Path], None]
"""Writes the page and the pictures of a version into its folder."""


ReleaseCheck = Callable[[ModelVersion], str]
"""Says why a version that passed the gate must not be released; empty where it may."""


@dataclass(frozen=True)
class RoundEnding:
    """What is done with a version besides.

    Attributes:
        draw: writes its page and pictures; None leaves them out.
        check: is asked before a release; None lets everything pass. It may be asked again where a
            crash came after it.
    """

    draw: Draw | None = None
    check: ReleaseCheck | None = None


PLAIN = RoundEnding()


@dataclass(frozen=True)
class Round:
    """The result of a round.

    Attributes:
        version: the new version.
        verdict: of the gate.
        is_released: whether it answers users now: a version that passed is held all the same where
            somebody moved the release meanwhile.
        is_new: whether this round trained it; where a version of the same files, settings and
            parent exists, that one is the result.
        is_tried: whether it passed and is the candidate that a server tries on a few callers.
        problem: why a check before the release held it; empty where none did.
    """

    version: ModelVersion
    verdict: Verdict
    is_released: bool
    is_new: bool = True
    is_tried: bool = False
    problem: str = ""


def publish(
    workspace: Workspace, parent: ModelVersion, folder: Path, ending: RoundEnding = PLAIN
) -> ModelVersion:
    """Add the scores of the lineage to the report, and give the folder its final name.

    Whatever stops it, calling it again gives the same version.

    Args:
        workspace: where it appears.
        parent: what it was made from.
        folder: everything of the version but its manifest, the page and the pictures.
        ending: writes the page and the pictures.
    """
    report = files.read_json(folder / REPORT)
    version = ModelVersion(
        id=store.next_id(workspace),
        parent=parent.id,
        created=now(),
        base_model=parent.base_model,
        base_fingerprint=report["base_fingerprint"],
        data_fingerprint=report.get("data", {}).get("fingerprint", ""),
        num_rows=report.get("num_rows", 0),
        folder=folder,
        files={},
    )
    scores = read_lineage_scores([*store.lineage(parent), version], version)
    files.write_json(folder / REPORT, scores.report | scores.learned())
    if ending.draw is not None:
        ending.draw(scores, folder)
    return store.publish(workspace, version)


def release(workspace: Workspace, version: ModelVersion, ending: RoundEnding = PLAIN) -> Round:
    """Move the aliases as the verdict says; files that were learned leave the inbox."""
    verdict = _verdict_of(version)
    if not verdict.is_promoted:
        releases.hold(workspace.releases, version.id, _why_not(verdict))
        return Round(version, verdict, is_released=False)
    if problem := ending.check(version) if ending.check else "":
        releases.hold(workspace.releases, version.id, texts.HELD(why=problem))
        return Round(version, verdict, is_released=False, problem=problem)
    if (verdict.waits_for_canary or _waits_for_canary(version)) and releases.hold_child(
        workspace.releases, version.id, parent=version.parent, why=texts.FOR_CANARY()
    ):
        return Round(version, verdict, is_released=False, is_tried=True)
    is_released = releases.promote_child(
        workspace.releases, version.id, parent=version.parent, why=texts.PROMOTED()
    )
    if is_released:
        parked = workspace.parked if (version.folder / drafts.FILES).exists() else None
        inbox.clear(workspace.inbox, version.report.get("taken", {}), parked)
    return Round(version, verdict, is_released)


def _why_not(verdict: Verdict) -> str:
    kind = texts.HELD if verdict.is_held else texts.REFUSED
    return kind(why=verdict.summary)


def _waits_for_canary(version: ModelVersion) -> bool:
    """Whether the settings that it was made with have it tried on a few callers first."""
    text = (version.folder / SETTINGS).read_text(encoding="utf-8")
    return bool(yaml.safe_load(text).get("gate", {}).get("release") == "canary")


def decided_before(version: ModelVersion) -> Round:
    """The result of an earlier round on the same files, settings and parent."""
    return Round(version, _verdict_of(version), is_released=False, is_new=False)


def _verdict_of(version: ModelVersion) -> Verdict:
    verdict = read_verdict(version.report)
    assert verdict is not None, f"{version.id} was not judged"
    return verdict


def finish_interrupted(
    workspace: Workspace, progress: Progress, ending: RoundEnding = PLAIN
) -> Round | None:
    """Publish and release the version of a round that was interrupted at its end."""
    version = (
        store.publish_complete(workspace)
        or _publish_judged(workspace, ending)
        or _newest_unreleased(workspace)
    )
    if version is None or read_verdict(version.report) is None:
        return None
    progress.say(f"Finishing the interrupted round {version.id}.")
    return release(workspace, version, ending)


def _publish_judged(workspace: Workspace, ending: RoundEnding) -> ModelVersion | None:
    """The version of a round that was judged: its report is the last that training writes."""
    plan = drafts.read_plan(workspace)
    if plan is None or not (workspace.building / REPORT).exists():
        return None
    parent = store.get(workspace, plan["parent"])
    keep_rows: bool = plan["config"]["data"]["keep_rows"]
    drafts.strip(workspace.building, workspace, keep_rows=keep_rows)
    return publish(workspace, parent, workspace.building, ending)


def _newest_unreleased(workspace: Workspace) -> ModelVersion | None:
    """The newest version where the history of releases does not name it."""
    try:
        newest = store.get(workspace, store.ids(workspace)[-1], verify=False)
    except VersionError:
        return None  # what cannot be read cannot be released
    history = releases.read(workspace.releases).history
    is_named = any(newest.id in entry.aliases.values() for entry in history)
    return None if is_named or newest.is_base else newest


def strategy_costs(kept: Memory, seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Of each strategy the seconds in its hooks, the bytes it keeps and the numbers it reports."""
    sizes = memory.num_bytes(kept)
    names = dict.fromkeys([*seconds, *sizes, *(key.partition(".")[0] for key in kept.numbers)])
    costs: dict[str, dict[str, float]] = {
        name: {"hook_seconds": round(seconds.get(name, 0.0), 3), "bytes": sizes.get(name, 0)}
        for name in names
    }
    for key, number in kept.numbers.items():
        name, _, what = key.partition(".")
        costs[name][what] = number
    return costs


def write_settings(config: LearningConfig, folder: Path) -> None:
    """Write the settings that a version was trained with into its folder."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    files.write_text(folder / SETTINGS, text)
