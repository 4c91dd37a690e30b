"""Whether everything of a workspace that answers rest on is whole: versions, aliases, notes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llama_factory.core.errors import VersionError
from llama_factory.versions import notes, proof, releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at.

    Attributes:
        name: a version's id, or a file of the workspace.
        problem: what is wrong and how to mend it; empty where it is whole.
    """

    name: str
    problem: str = ""


def verify(workspace: Workspace, names: tuple[str, ...] = ()) -> Iterator[Checked]:
    """Look at versions one after another, then at what names them.

    Args:
        workspace: where.
        names: ids or aliases; none for all versions, the aliases and the notes.

    Raises:
        VersionError: no version has one of the names.
    """
    if names:
        for name in names:
            version = store.get(workspace, name, verify=False)
            yield Checked(version.id, _problem(partial(_read_whole, version)))
        return
    known = store.ids(workspace)
    for version_id in known:
        folder = workspace.versions / version_id
        yield Checked(version_id, _problem(partial(_read_folder, folder)))
    yield Checked(workspace.releases.name, _problem(partial(_aliases, workspace, known)))
    yield Checked(notes.FILE, _problem(partial(_tags, workspace, known)))


def _read_folder(folder: Path) -> None:
    _read_whole(ModelVersion.read(folder))


def _read_whole(version: ModelVersion) -> None:
    version.verify()
    _ = version.scores
    proof.read(version)
    if not version.is_base:
        ModelVersion.read(version.folder.parent / version.parent)


def _aliases(workspace: Workspace, known: list[str]) -> None:
    for alias, version_id in releases.read(workspace.releases).aliases.items():
        if version_id not in known:
            raise VersionError(
                f"{workspace.releases}: {alias} is {version_id}, which is not there. Restore its "
                "folder from a backup, or promote another version."
            )


def _tags(workspace: Workspace, known: list[str]) -> None:
    for name, version_id in notes.read(workspace).tags.items():
        if version_id not in known:
            raise VersionError(
                f"tag '{name}' is on {version_id}, which is not there. Take it off: "
                f"llama-factory tag {workspace.folder} {name} --remove"
            )


def _problem(look: Callable[[], None]) -> str:
    try:
        look()
    except VersionError as error:
        return str(error)
    return ""
