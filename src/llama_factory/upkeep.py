"""The verbs of whoever looks after versions, each in a few lines: check, describe, note, compare,
pack as one file, publish, throw away.

What a person can mend is a `FactoryError` whose message tells how.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.config import template
from llama_factory.config.changes import Changes
from llama_factory.config.loading import load_config
from llama_factory.core.progress import SILENT, Progress
from llama_factory.versions import (
    archive,
    description,
    difference,
    releases,
    store,
    verification,
)
from llama_factory.versions import notes as remarks
from llama_factory.versions.archive import Taken
from llama_factory.versions.description import Described
from llama_factory.versions.difference import Difference
from llama_factory.versions.journal import Journal
from llama_factory.versions.notes import Note
from llama_factory.versions.releases import Releases
from llama_factory.versions.verification import Checked
from llama_factory.versions.workspace import PathLike, Workspace

if TYPE_CHECKING:
    from llama_factory.evaluation.changed_answers import RowChanges
    from llama_factory.jobs.publish import Published
    from llama_factory.versions.gc import RemovedVersion


def verify(folder: PathLike, names: tuple[str, ...] = ()) -> Iterator[Checked]:
    """Compare every file of versions with its checksum, all of them unless some are named.

    Raises:
        VersionError: no version has one of the names. What is damaged is in the values.
    """
    return verification.verify(Workspace.open(folder), names)


def note(folder: PathLike, version: str, text: str = "", who: str = "") -> tuple[Note, ...]:
    """The notes of a version, after `text` was added to them where it is not empty.

    Args:
        folder: the workspace.
        version: id, alias or tag.
        text: what to remember.
        who: writes it.
    """
    workspace = Workspace.open(folder)
    version_id = store.get(workspace, version, verify=False).id
    known = remarks.add_note(workspace, version_id, text, who) if text else remarks.read(workspace)
    return known.notes.get(version_id, ())


def tag(folder: PathLike, name: str, version: str | None) -> str:
    """Give a version a name of its own, or take the name off; a line that says what was done.

    Args:
        folder: the workspace.
        name: the tag.
        version: id, alias or tag that gets it; None takes it off.
    """
    workspace = Workspace.open(folder)
    target = store.get(workspace, version, verify=False).id if version else None
    remarks.set_tag(workspace, name, target)
    return f"'{name}' is {target}." if target else f"'{name}' is no version any more."


def describe(folder: PathLike, version: str = releases.PRODUCTION) -> Described:
    """A version with its report, aliases, tags and notes; nothing of it is measured or verified."""
    return description.describe(Workspace.open(folder), version)


def released(folder: PathLike) -> Releases:
    """Where the aliases of a workspace point, and every earlier state."""
    return releases.read(Workspace.open(folder).releases)


def diff(folder: PathLike, before: str, after: str = releases.PRODUCTION) -> Difference:
    """What two versions differ in: rows taught, settings, scores. Loads no model."""
    workspace = Workspace.open(folder)
    return difference.compare(store.get(workspace, before), store.get(workspace, after))


def pack(folder: PathLike, version: str, path: PathLike, progress: Progress = SILENT) -> list[str]:
    """A version and all it was made from as one new file; the ids that are in it."""
    return archive.pack(Workspace.open(folder), version, Path(path), progress)


def unpack(folder: PathLike, path: PathLike, progress: Progress = SILENT) -> Taken:
    """Take the versions of such a file in, and release none.

    Args:
        folder: a workspace; a new folder becomes one around the base model of the file.
        path: the file.
        progress: shows how far it is.
    """
    if Path(folder).exists():
        return archive.unpack(Workspace.open(folder), Path(path), progress)
    name = archive.base_model_of(Path(path))
    workspace = store.create_workspace(folder, name, template.settings_file(name))
    return archive.unpack(workspace, Path(path), progress)


def publish(folder: PathLike, version: str, target: str, *, is_private: bool = True) -> Published:
    """Put a version into a registry that other programs read, `hf:OWNER/NAME` or `mlflow:NAME`."""
    from llama_factory.jobs.publish import publish as put

    return put(Workspace.open(folder), version, target, is_private=is_private)


def collect(
    folder: PathLike, changes: Changes = (), *, is_dry: bool = False
) -> list[RemovedVersion]:
    """Remove versions that nothing needs and `loop.keep` does not keep."""
    from llama_factory.rounds.housekeeping import note_removed
    from llama_factory.versions import gc

    workspace = Workspace.open(folder)
    keep = load_config(workspace.settings, changes).loop.keep
    removed = gc.collect(workspace, keep, is_dry=is_dry)
    if not is_dry:
        note_removed(Journal(workspace.journal), removed, "person")
    return removed


def changed_answers(folder: PathLike, before: str, after: str) -> tuple[RowChanges, RowChanges]:
    """The rows that both versions answered and that got worse, and those that got better."""
    from llama_factory.evaluation.changed_answers import changed_answers as changed

    workspace = Workspace.open(folder)
    return changed(*(store.get(workspace, name, verify=False) for name in (before, after)))
