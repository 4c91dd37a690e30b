"""The round in progress, on disk: what it was begun with, so that a killed one goes on.

It lies in `versions/.building`. Its rows are fixed when it begins: files that arrive later wait for
the next round.
"""

import shutil
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.progress import Progress
from llama_factory.core.types import Task, tasks_by_group
from llama_factory.data import prepare
from llama_factory.data.cleaning_report import DataReport
from llama_factory.data.conflict_rules import ConflictSettings
from llama_factory.data.prepare import DataFolders, PreparedData
from llama_factory.data.review import folder as review
from llama_factory.data.row_columns import hash_of
from llama_factory.data.seen import TRAIN, Seen, open_seen
from llama_factory.data.settings import DataSettings
from llama_factory.data.sources import inbox
from llama_factory.data.sources.files import DataSource, source_of
from llama_factory.evaluation.complaints import Complaint
from llama_factory.rounds import feedback
from llama_factory.rounds.settings import LearningConfig
from llama_factory.versions import store
from llama_factory.versions.forgotten import read_forgotten
from llama_factory.versions.version import SETTINGS, ModelVersion
from llama_factory.versions.workspace import Workspace

TESTING = "testing"
"""Folder of predictions while a model is tested."""
FILES = "data/files"
"""The files that a round took, as they were then."""
NOT_PART_OF_A_VERSION = (
    "checkpoints",
    "checkpoints.replaced",
    "before.json",
    "base.json",
    TESTING,
    "data/refused.jsonl",
)

ACCEPTED = "review.jsonl"
"""Rows that people accepted, in the cache."""
TAUGHT_ROWS = (FILES, f"data/{TRAIN}.jsonl")


@dataclass(frozen=True)
class Draft:
    """A round that was begun.

    Attributes:
        workspace: where it is built.
        parent: the version that it teaches.
        id: of the version it becomes.
        data: its rows.
        taken: SHA-256 of each file it took from the inbox, by name.
    """

    workspace: Workspace
    parent: ModelVersion
    id: str
    data: PreparedData
    taken: dict[str, str]

    @property
    def folder(self) -> Path:
        """Where the version is built."""
        return self.workspace.building

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The held-out rows of this round, one task a group."""
        return tasks_by_group(self.id, self.data.held_out)

    @property
    def old_tasks(self) -> tuple[Task, ...]:
        """The parent's tasks without the questions whose answers this round corrects."""
        return store.without(store.tasks(self.parent), frozenset(self.data.report.retired))

    @cached_property
    def complaints(self) -> tuple[Complaint, ...]:
        """The complaints that this round and those before it were taught."""
        taught = {each.id: each.folder for each in store.lineage(self.parent)}
        return feedback.complaints_in(taught | {self.id: self.folder})

    @property
    def shortened_tasks(self) -> tuple[Task, ...]:
        """Those of them that lost questions, so that the parent's scores do not hold any more."""
        whole = {task.name: len(task.rows) for task in store.tasks(self.parent)}
        return tuple(task for task in self.old_tasks if len(task.rows) < whole[task.name])


def open_draft(
    workspace: Workspace,
    config: LearningConfig,
    parent: ModelVersion,
    progress: Progress,
    *,
    again: bool = False,
    only: Mapping[str, str] | None = None,
) -> Draft | ModelVersion | None:
    """The interrupted round if there is one that still fits, else a new one from the inbox.

    Args:
        workspace: where it is built.
        config: settings.
        parent: the released version.
        progress: reports what is left out.
        again: begin a round also where a version of the same files, settings and parent exists.
        only: SHA-256 by name of the files of the inbox that it may take; None for all.

    Returns:
        That version where it exists; None when the inbox holds nothing new to teach.
    """
    plan = read_plan(workspace)
    if plan is not None:
        differs = _differences(plan, config, parent, workspace)
        if not differs:
            progress.say(f"Going on with the interrupted round {plan['id']}.")
            data = prepare.load(workspace.building / "data")
            return Draft(workspace, parent, plan["id"], data, plan["taken"])
        progress.say(f"The interrupted round is begun anew: {differs} changed since.")
    store.discard_unfinished(workspace)
    draft = _begin(workspace, config, parent, progress, only)
    if draft is None:
        return None
    earlier = None if again else _earlier_version(draft, config)
    if earlier is not None:
        store.discard_unfinished(workspace)
        return earlier
    plan = {"id": draft.id, "parent": parent.id, "taken": draft.taken, "config": sections(config)}
    if gone := sorted(read_forgotten(workspace)):
        plan["forgotten"] = gone
    files.write_json(draft.folder / store.PLAN, plan)
    return draft


def strip(folder: Path, workspace: Workspace, *, keep_rows: bool) -> None:
    """Remove what only the making of the version needed, and rows that may not be kept."""
    _remove(folder / name for name in NOT_PART_OF_A_VERSION)
    _remove(folder.rglob(".*.tmp"))  # writes that a crash cut short
    if not keep_rows:
        report = prepare.load(folder / "data").report
        _remove(folder / name for name in TAUGHT_ROWS)
        feedback.forget_texts(folder)
        files.write_json(folder / "data/report.json", describe_data(report, keep_rows=keep_rows))
        _forget_texts(workspace)


def _forget_texts(workspace: Workspace) -> None:
    """Remove what was cached of files: rows read from them, and their tokens."""
    texts = ("data", "tokens", ACCEPTED, feedback.CORRECTIONS, feedback.THUMBS)
    _remove(workspace.cache / name for name in texts)
    _remove([workspace.parked])


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def describe_data(report: DataReport, *, keep_rows: bool) -> dict[str, Any]:
    """The data report as plain values, without the texts of its samples if no row may be kept."""
    if not keep_rows:
        silent = (replace(sample, before="", after="") for sample in report.samples)
        report = replace(report, samples=tuple(silent))
    return report.to_json()


def read_plan(workspace: Workspace) -> dict[str, Any] | None:
    """What the round in progress was begun with; None where none is that becomes the next id."""
    path = workspace.building / store.PLAN
    if not path.exists():
        return None
    try:
        plan: dict[str, Any] = dict(files.read_json(path))
    except (ValueError, TypeError):
        return None
    return plan if plan.get("id") == store.next_id(workspace) else None


def sections(config: LearningConfig) -> dict[str, Any]:
    """The settings that a round's result depends on as plain values, by section."""
    values = config.model_dump(mode="json") | {"plugins": plugin_hashes(config)}
    return {name: values[name] for name in LearningConfig.model_fields}


def plugin_hashes(config: LearningConfig) -> list[str]:
    """The SHA-256 of each plugin file: what one does depends on its content, not on its place."""
    return [files.sha256(path) for path in config.plugins]


def _differences(
    plan: dict[str, Any], config: LearningConfig, parent: ModelVersion, workspace: Workspace
) -> str:
    """Which sections of the settings, or what else, are not those the round was begun with."""
    now = sections(config)
    begun = {"plugins": []} | plan["config"]
    changed = [name for name, values in now.items() if begun.get(name) != values]
    if plan["parent"] != parent.id:
        changed.append("the released version")
    if plan.get("forgotten", []) != sorted(read_forgotten(workspace)):
        changed.append("the rows to be forgotten")
    return ", ".join(changed)


def _earlier_version(draft: Draft, config: LearningConfig) -> ModelVersion | None:
    """The newest version of the same rows, settings and parent, whatever the gate decided of it."""
    wanted = draft.parent.id, draft.data.report.fingerprint
    for version_id in reversed(store.ids(draft.workspace)):
        try:
            version = ModelVersion.read(draft.workspace.versions / version_id)
            same = (version.parent, version.data_fingerprint) == wanted
            same = same and version.report.get("taken") == draft.taken
            if same and has_settings(version, config):
                return version
        except VersionError:
            continue  # what cannot be read decided nothing
    return None


def has_settings(version: ModelVersion, config: LearningConfig) -> bool:
    """Whether a version was trained with these settings."""
    settings = version.folder / SETTINGS
    if not settings.is_file():
        return False
    values: Any = yaml.safe_load(settings.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        return False
    values["plugins"] = version.report.get("plugins", [])
    return all(values.get(name) == wanted for name, wanted in sections(config).items())


def _begin(
    workspace: Workspace,
    config: LearningConfig,
    parent: ModelVersion,
    progress: Progress,
    only: Mapping[str, str] | None,
) -> Draft | None:
    for name in inbox.settle(workspace.inbox, workspace.parked):
        progress.say(f"Back in the inbox: {name} grew after it was learned.")
    paths, notes = inbox.arrived(workspace.inbox)
    copies = workspace.building / FILES
    if only is not None:
        paths = [path for path in paths if path.name in only]
    taken, changing = inbox.take_copies(paths, copies)
    if only is not None:
        taken = _unchanged(taken, only, copies)
    for note in [*notes, *changing]:
        progress.say(f"Left in the inbox: {note}")
    seen = seen_by(parent, workspace.cache / "data")
    opened = feedback.open_feedback(workspace, config, seen, progress)
    extra = [*accepted(workspace, seen, workspace.cache), *opened.sources(workspace.cache)]
    paths = [copies / name for name in taken]
    data = _prepare(workspace, config, paths, extra, seen=seen, progress=progress)
    feedback.write_taught(workspace.building, opened.taught_by(data))
    _report(data, workspace, copies, progress)
    _note_conflicts(data, workspace, config.data, progress)
    refused = {each.file for each in data.refused() if each.line == 0}
    parked = workspace.parked if config.data.keep_rows else None
    inbox.clear(workspace.inbox, _only(taken, refused), parked)
    _remove(copies / name for name in refused)
    taken = _only(taken, {each.file for each in data.report.sets})
    if not len(data.train):
        _clear_useless(data, taken, workspace, progress)
        if not config.data.keep_rows:
            _forget_texts(workspace)
        store.discard_unfinished(workspace)
        return None
    return Draft(workspace, parent, store.next_id(workspace), data, taken)


def _prepare(
    workspace: Workspace,
    config: LearningConfig,
    copies: Sequence[Path],
    extra: Sequence[DataSource],
    *,
    seen: Seen,
    progress: Progress,
) -> PreparedData:
    # Pictures lie in the inbox, beside the file that names them.
    taken = [replace(source_of(copy), picture_folder=workspace.inbox) for copy in copies]
    folders = DataFolders(workspace.building / "data", workspace.cache / "data", workspace.review)
    sources = [*taken, *extra]
    return prepare.prepare(
        sources,
        config.data,
        folders,
        seen=seen,
        forgotten=read_forgotten(workspace),
        progress=progress,
    )


def _unchanged(taken: Mapping[str, str], wanted: Mapping[str, str], copies: Path) -> dict[str, str]:
    """The files whose content is what was wanted; the copies of the others are removed."""
    same = {name: digest for name, digest in taken.items() if wanted[name] == digest}
    _remove(copies / name for name in taken.keys() - same.keys())
    return same


def _only(taken: dict[str, str], names: Container[str]) -> dict[str, str]:
    return {name: digest for name, digest in taken.items() if name in names}


def _clear_useless(
    data: PreparedData, taken: dict[str, str], workspace: Workspace, progress: Progress
) -> None:
    """Take files without a new row out of the inbox; rows to test wait for rows to teach."""
    waiting = {each.file for each in data.report.sets if each.num_kept}
    for name in sorted(waiting):
        progress.say(f"Left in the inbox: {name}: its rows are tests, and wait for rows to teach.")
    inbox.clear(workspace.inbox, _only(taken, taken.keys() - waiting), workspace.parked)


def _report(data: PreparedData, workspace: Workspace, copies: Path, progress: Progress) -> None:
    """Report what was left out and why, and put refused rows into quarantine."""
    inbox.quarantine(data.refused(), copies, workspace.quarantine)
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
    for warning in data.report.unread_warnings:
        progress.say(f"Unread: {warning}")
    for reason, count in data.report.dropped.items():
        progress.say(f"Dropped: {count} rows, {reason}.")


def accepted(workspace: Workspace, seen: Seen, folder: Path) -> list[DataSource]:
    """Rows that people accepted and that were not taught yet: they pass the same checks again.

    They are written into a folder.
    """
    keys = [each.taught.column("key") for each in seen]
    rows = [
        row
        for row in review.accepted_rows(workspace.review)
        if not any(hash_of(row.key) in taught for taught in keys)
    ]
    if not rows:
        return []
    path = folder / ACCEPTED
    files.write_jsonl(path, (row.to_json() for row in rows))
    return [source_of(path)]


def _note_conflicts(
    data: PreparedData, workspace: Workspace, settings: DataSettings, progress: Progress
) -> None:
    """Note conflicts for people to decide, and report how many wait."""
    for step in settings.cleaning:
        if isinstance(step, ConflictSettings):
            review.add_cases(workspace.review, data.conflicts, step)
    waiting = len(review.open_cases(workspace.review))
    if waiting:
        progress.say(f"{waiting} cases wait for `llama-factory data review {workspace.folder}`.")


def seen_by(parent: ModelVersion, cache: Path) -> Seen:
    """What the lineage was taught and tested on."""
    lineage = store.lineage(parent)
    folders = {version.id: version.folder / "data" for version in lineage}
    return open_seen(folders, cache, store.retired(lineage))
