"""Notes and tags of versions, which never change themselves: one file beside the releases."""

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace

DAMAGED = kind(
    "problem.notes_damaged",
    "{path} is damaged ({error}). Restore it from a backup, or remove it: notes and tags "
    "are lost then, versions and releases are not.",
)
NOTE_LENGTH = kind(
    "problem.note_length",
    "a note of {count} characters: it must have 1 to {most}, not blanks alone.",
)
TAG_NAME = kind(
    "problem.tag_name",
    "'{name}' cannot be a tag: up to 40 of a-z, 0-9, '.', '_' and '-', a letter first, "
    "and neither {reserved} nor a version's id.",
)
NO_TAG = kind("problem.no_tag", "no version has the tag '{name}'. Tags: {known}.")

FILE = "notes.json"
LONGEST_NOTE = 10_000
"""Characters of one note."""
TAG = re.compile(r"[a-z][a-z0-9._-]{0,39}")
RESERVED = (releases.PRODUCTION, releases.PREVIOUS, releases.CANDIDATE)


@dataclass(frozen=True)
class Note:
    """What somebody wrote about a version: `time` is UTC, ISO 8601."""

    time: str
    who: str
    text: str


@dataclass(frozen=True)
class Notes:
    """All notes and tags of a workspace.

    Attributes:
        notes: by version id, oldest first.
        tags: by name the id of the version that has it; a tag is on one version at a time.
    """

    notes: dict[str, tuple[Note, ...]]
    tags: dict[str, str]

    def tags_of(self, version_id: str) -> list[str]:
        """The names of the tags on a version, sorted."""
        return sorted(name for name, target in self.tags.items() if target == version_id)


def read(workspace: Workspace) -> Notes:
    """Notes and tags; none where nobody wrote any.

    Raises:
        VersionError: the file is damaged.
    """
    path = workspace.folder / FILE
    if not path.exists():
        return Notes({}, {})
    try:
        values = files.read_json(path)
        notes = {
            key: tuple(Note(**each) for each in values["notes"][key]) for key in values["notes"]
        }
        return Notes(notes, _checked(values["tags"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise VersionError(DAMAGED(path=path, error=f"{error!r}")) from error


def add_note(workspace: Workspace, version_id: str, text: str, who: str) -> Notes:
    """Write a note about a version.

    Args:
        workspace: whose version.
        version_id: of a version that exists.
        text: not empty, at most `LONGEST_NOTE` characters.
        who: wrote it.

    Raises:
        VersionError: the text is empty or too long.
    """
    if not text.strip() or len(text) > LONGEST_NOTE:
        raise VersionError(NOTE_LENGTH(count=len(text), most=LONGEST_NOTE))
    note = Note(now(), who, text)

    def change(known: Notes) -> Notes:
        own = (*known.notes.get(version_id, ()), note)
        return Notes(known.notes | {version_id: own}, known.tags)

    return _change(workspace, change)


def set_tag(workspace: Workspace, name: str, version_id: str | None) -> Notes:
    """Put a tag on a version, from where it was before; None takes it off.

    Raises:
        VersionError: the name cannot be a tag, or no version has the tag that is taken off.
    """
    if not TAG.fullmatch(name) or name in RESERVED or releases.VERSION_ID.fullmatch(name):
        raise VersionError(TAG_NAME(name=name, reserved=", ".join(RESERVED)))

    def change(known: Notes) -> Notes:
        if version_id is None and name not in known.tags:
            there = ", ".join(sorted(known.tags)) or "none"
            raise VersionError(NO_TAG(name=name, known=there))
        tags = {key: target for key, target in known.tags.items() if key != name}
        return Notes(known.notes, tags | ({name: version_id} if version_id else {}))

    return _change(workspace, change)


def _change(workspace: Workspace, change: Callable[[Notes], Notes]) -> Notes:
    path = workspace.folder / FILE
    with files.locked(path.with_suffix(".lock"), what="writing a note", seconds=10):
        changed = change(read(workspace))
        _write(path, changed)
    return changed


def _write(path: Path, notes: Notes) -> None:
    listed = {key: [asdict(each) for each in written] for key, written in notes.notes.items()}
    files.write_json(path, {"notes": listed, "tags": notes.tags})


def _checked(tags: dict[str, str]) -> dict[str, str]:
    """Tags that name versions and nothing else: they become names of folders.

    Raises:
        ValueError: one does not.
    """
    for name, target in tags.items():
        if not (isinstance(target, str) and releases.VERSION_ID.fullmatch(target)):
            raise ValueError(f"tag '{name}' is on {target!r}, which is no version")
    return dict(tags)
