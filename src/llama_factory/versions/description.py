"""All that is written down about one version, read without a model."""

from dataclasses import dataclass
from typing import Any

from llama_factory.versions import notes, releases, store
from llama_factory.versions.notes import Note
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace


@dataclass(frozen=True)
class Described:
    """A version as people look at it.

    Attributes:
        version: its manifest.
        report: what its round measured; empty for the base model.
        aliases: that point to it.
        tags: on it.
        notes: about it, oldest first.
    """

    version: ModelVersion
    report: dict[str, Any]
    aliases: tuple[str, ...]
    tags: tuple[str, ...]
    notes: tuple[Note, ...]


def describe(workspace: Workspace, name: str) -> Described:
    """Read what is known about a version.

    Raises:
        VersionError: there is no such version, or its files are damaged.
    """
    version = store.get(workspace, name, verify=False)
    known = notes.read(workspace)
    aliases = releases.read(workspace.releases).aliases
    return Described(
        version,
        {} if version.is_base else version.report,
        tuple(alias for alias, target in aliases.items() if target == version.id),
        tuple(known.tags_of(version.id)),
        known.notes.get(version.id, ()),
    )
