"""The round in progress, on disk: what it was begun with, so that a killed one goes on.

It lies in `versions/.building`. Its rows are fixed when it begins: files that arrive later wait for
the next round.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.continual.settings import RoundConfig
from llama_factory.core import files
from llama_factory.core.progress import Progress
from llama_factory.core.types import EvalReport, Task, tasks_by_group
from llama_factory.data import inbox, prepare, review
from llama_factory.data.conflicts import ConflictSettings
from llama_factory.data.prepare import DataFolders, PreparedData
from llama_factory.data.seen import TRAIN, Seen, open_seen
from llama_factory.data.settings import DataSettings
from llama_factory.data.sources import DataSource, source_of
from llama_factory.data.table import hash_of
from llama_factory.evaluation.prediction import Prediction
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

PLAN = "plan.json"
TESTING = "testing"
"""Folder of predictions while a model is tested."""
NOT_PART_OF_A_VERSION = (
    "plan.json",
    "checkpoints",
    "checkpoints.replaced",
    "before.json",
    "base.json",
    TESTING,
    "data/refused.jsonl",
)

ACCEPTED = "review.jsonl"
"""Rows that people accepted, in the cache."""
TAUGHT_ROWS = ("data/files", f"data/{TRAIN}.jsonl")


@dataclass(frozen=True)
class Draft:
    """A round that was begun.

    Attributes:
        id: of the version it becomes.
        folder: where it is built.
        data: its rows.
        taken: SHA-256 of each file it took from the inbox, by name.
    """

    id: str
    folder: Path
    data: PreparedData
    taken: dict[str, str]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The held-out rows of this round, one task a group."""
        return tasks_by_group(self.id, self.data.held_out)


def open_draft(
    workspace: Workspace, config: RoundConfig, parent: ModelVersion, progress: Progress
) -> Draft | None:
    """The interrupted round if there is one that still fits, else a new one from the inbox.

    Returns:
        None when the inbox holds nothing new to teach.
    """
    plan = _read_plan(workspace)
    if plan is not None:
        differs = _differences(plan, config, parent)
        if not differs:
            progress.say(f"Going on with the interrupted round {plan['id']}.")
            data = prepare.load(workspace.building / "data")
            return Draft(plan["id"], workspace.building, data, plan["taken"])
        progress.say(f"The interrupted round is begun anew: {differs} changed since.")
    store.discard_unfinished(workspace)
    return _begin(workspace, config, parent, progress)


def keep_scores(path: Path, report: EvalReport, answers: Iterable[Prediction]) -> None:
    """Write scores that a round goes on with; the answers behind them, beside it, stay for good."""
    files.write_jsonl(path.with_suffix(".jsonl"), (each.to_json() for each in answers))
    files.write_json(path, report.to_json())


def strip(draft: Draft, workspace: Workspace, settings: DataSettings) -> None:
    """Remove what only the making of the version needed, and rows that may not be kept."""
    _remove(draft.folder / name for name in NOT_PART_OF_A_VERSION)
    if not settings.keep_rows:
        _remove(draft.folder / name for name in TAUGHT_ROWS)
        files.write_json(draft.folder / "data/report.json", told_of_data(draft, settings))
        _forget_texts(workspace)


def _forget_texts(workspace: Workspace) -> None:
    """Remove what files came to when they were read and tokenised."""
    _remove(workspace.cache / name for name in ("data", "tokens", ACCEPTED))


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def told_of_data(draft: Draft, settings: DataSettings) -> dict[str, Any]:
    """The data report as plain values; its samples do not say what rows said that may not stay."""
    report = draft.data.report
    if not settings.keep_rows:
        silent = (replace(sample, before="", after="") for sample in report.samples)
        report = replace(report, samples=tuple(silent))
    return report.to_json()


def _read_plan(workspace: Workspace) -> dict[str, Any] | None:
    path = workspace.building / PLAN
    if not path.exists():
        return None
    plan: dict[str, Any] = files.read_json(path)
    return plan if plan["id"] == store.next_id(workspace) else None


def _differences(plan: dict[str, Any], config: RoundConfig, parent: ModelVersion) -> str:
    """Which sections of the settings, or the parent, are not those the round was begun with."""
    now = _sections(config)
    changed = [name for name, values in now.items() if plan["config"].get(name) != values]
    if plan["parent"] != parent.id:
        changed.append("the released version")
    return ", ".join(changed)


def _sections(config: RoundConfig) -> dict[str, Any]:
    names = RoundConfig.model_fields.keys()
    return {name: config.model_dump(mode="json")[name] for name in names}


def _begin(
    workspace: Workspace, config: RoundConfig, parent: ModelVersion, progress: Progress
) -> Draft | None:
    paths, notes = inbox.arrived(workspace.inbox)
    for note in notes:
        progress.say(f"Left in the inbox: {note}")
    folder = workspace.building
    cache = workspace.cache / "data"
    seen = _seen(parent, cache)
    sources = [*map(source_of, paths), *_accepted(workspace, seen)]
    folders = DataFolders(folder / "data", cache, workspace.review)
    data = prepare.prepare(sources, seen, config.data, folders, progress=progress)
    _tell(data, workspace, progress)
    _ask(data, workspace, config.data, progress)
    names = {each.file for each in data.report.sets}
    read = [path for path in paths if path.name in names]
    if not len(data.train):
        if not config.data.keep_rows:
            _forget_texts(workspace)
        inbox.clear(workspace.inbox, {path.name: files.sha256(path) for path in read})
        store.discard_unfinished(workspace)
        return None
    taken = inbox.keep_copies(read, folder / "data" / "files")
    draft = Draft(store.next_id(workspace), folder, data, taken)
    plan = {"id": draft.id, "parent": parent.id, "taken": taken, "config": _sections(config)}
    files.write_json(folder / PLAN, plan)
    return draft


def _tell(data: PreparedData, workspace: Workspace, progress: Progress) -> None:
    """Say what was left out and why, and put refused rows where a person finds them."""
    inbox.quarantine(data.refused(), workspace.inbox, workspace.quarantine)
    for refused in data.report.refused:
        progress.say(f"Quarantined: {refused}")
    more = data.report.num_refused - len(data.report.refused)
    if more:
        progress.say(f"Quarantined: {more} rows more, all in {workspace.quarantine}.")
    for step, count in data.report.changed.items():
        progress.say(f"Changed: {count} rows by {step}.")
    if data.report.corrected:
        progress.say(f"Corrected: {len(data.report.corrected)} rows of earlier rounds.")
    if data.report.retired:
        progress.say(
            f"Retired: {len(data.report.retired)} held-out questions of earlier rounds, which this "
            "round answers otherwise. No version is asked them any more."
        )
    for told in filter(None, (each.told_unread for each in data.report.sets)):
        progress.say(f"Unread: {told}")
    for reason, count in data.report.dropped.items():
        progress.say(f"Dropped: {count} rows, {reason}.")


def _accepted(workspace: Workspace, seen: Seen) -> list[DataSource]:
    """Rows that people accepted and that were not taught yet: they pass the same checks again."""
    keys = [each.taught.column("key") for each in seen]
    rows = [
        row
        for row in review.accepted_rows(workspace.review)
        if not any(hash_of(row.key) in taught for taught in keys)
    ]
    if not rows:
        return []
    path = workspace.cache / ACCEPTED
    files.write_jsonl(path, (row.to_json() for row in rows))
    return [source_of(path)]


def _ask(
    data: PreparedData, workspace: Workspace, settings: DataSettings, progress: Progress
) -> None:
    """Note conflicts for people to decide, and say how many wait."""
    for step in settings.cleaning:
        if isinstance(step, ConflictSettings):
            review.add_cases(workspace.review, data.conflicts, step)
    waiting = len(review.open_cases(workspace.review))
    if waiting:
        progress.say(f"{waiting} cases wait for `llama-factory data review {workspace.folder}`.")


def _seen(parent: ModelVersion, cache: Path) -> Seen:
    """What the lineage was taught and tested on."""
    lineage = store.lineage(parent)
    folders = {version.id: version.folder / "data" for version in lineage}
    return open_seen(folders, cache, store.retired(lineage))
