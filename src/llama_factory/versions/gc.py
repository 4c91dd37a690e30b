"""Removing versions that nobody needs any more."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pydantic import Field

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.ownership import owned
from llama_factory.core.settings import Settings
from llama_factory.core.types import BASE_VERSION
from llama_factory.versions import notes, releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

REMOVED = ".removed-"
"""How the names of folders begin that are being removed."""


class KeepSettings(Settings):
    """Which versions are kept, beside those that an alias, a tag or a lineage names; empty: all."""

    versions: int | None = Field(None, ge=1)
    """So many of the newest. Lower frees more disk and leaves fewer versions to look at."""
    days: float | None = Field(None, gt=0)
    """All that are younger. A version is removed only if it is outside of both."""


@dataclass(frozen=True)
class RemovedVersion:
    """A version that was removed, or would be.

    Attributes:
        id: its.
        bytes: that its folder took.
        why: nobody needs it.
    """

    id: str
    bytes: int
    why: str


def collect(
    workspace: Workspace,
    keep: KeepSettings,
    *,
    is_dry: bool = False,
    now: datetime | None = None,
) -> list[RemovedVersion]:
    """Remove the versions that `keep` does not keep and nothing needs.

    Needed are all that an alias or a tag names with their whole lineages, whose rows and memory
    rounds go on with; what was made from the released version, so that a decision about files that
    still lie in the inbox is remembered; and the parent of a round in progress.

    Args:
        workspace: whose versions.
        keep: what is kept beside those.
        is_dry: only look.
        now: the time; None for the clock's.

    Raises:
        VersionError: a round is in progress, or releases.json is damaged.
    """
    if keep.versions is None and keep.days is None:
        return []
    if is_dry:
        return _useless(workspace, keep, now or datetime.now(UTC))
    with owned(workspace.lock, what="removing versions"):
        useless = _useless(workspace, keep, now or datetime.now(UTC))
        for each in useless:
            folder = workspace.versions / each.id
            aside = folder.with_name(f"{REMOVED}{each.id}")
            folder.rename(aside)  # in one step: no half version is ever seen
            shutil.rmtree(workspace.runs / each.id, ignore_errors=True)
        for rest in workspace.versions.glob(f"{REMOVED}*"):
            shutil.rmtree(rest, ignore_errors=True)
        return useless


def _useless(workspace: Workspace, keep: KeepSettings, now: datetime) -> list[RemovedVersion]:
    known = store.ids(workspace)
    needed = _needed(workspace, known)
    newest = set(known[-keep.versions :]) if keep.versions else set()
    useless = []
    for version_id in known:
        if version_id in needed | newest:
            continue
        why = _why_useless(workspace, version_id, keep, now)
        if why:
            folder = workspace.versions / version_id
            useless.append(RemovedVersion(version_id, files.num_bytes(folder), why))
    return useless


def _why_useless(workspace: Workspace, version_id: str, keep: KeepSettings, now: datetime) -> str:
    """Why it goes; empty where it stays, as one does that cannot be read."""
    try:
        created = datetime.fromisoformat(ModelVersion.read(workspace.versions / version_id).created)
    except (VersionError, ValueError):
        return ""
    age = now - created
    if keep.days is not None and age <= timedelta(days=keep.days):
        return ""
    return f"no alias, tag or lineage names it, and it is {max(age.days, 0)} days old"


def _needed(workspace: Workspace, known: list[str]) -> set[str]:
    current = releases.read(workspace.releases)
    named = {*current.aliases.values(), *notes.read(workspace).tags.values()}
    needed = {BASE_VERSION, *named, *_in_progress(workspace)}
    for version_id in list(needed & set(known)):
        needed |= _with_parents(workspace, version_id)
    children = {each for each in known if _parent(workspace, each) == current.production}
    return needed | children


def _in_progress(workspace: Workspace) -> set[str]:
    try:
        return {str(files.read_json(workspace.building / store.PLAN)["parent"])}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def _with_parents(workspace: Workspace, version_id: str) -> set[str]:
    """A version and what it was made from, as far as manifests can be read."""
    chain = {version_id}
    while version_id != BASE_VERSION and (parent := _parent(workspace, version_id)):
        version_id = parent
        chain.add(version_id)
    return chain


def _parent(workspace: Workspace, version_id: str) -> str:
    """What a version was made from; empty where that cannot be read."""
    try:
        return ModelVersion.read(workspace.versions / version_id).parent
    except VersionError:
        return ""
