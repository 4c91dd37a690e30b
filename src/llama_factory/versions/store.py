"""The versions of a workspace: list, get, publish. Moving a release is in `releases.py`."""

import json
import shutil
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import VersionError, suggest
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.core.types import BASE_VERSION, EvalReport, Task
from llama_factory.model import provenance as trained_on
from llama_factory.model.chat import prompt_format
from llama_factory.versions import notes, releases
from llama_factory.versions.releases import VERSION_ID
from llama_factory.versions.version import MANIFEST, REPORT, ModelVersion, number_of
from llama_factory.versions.workspace import PathLike, Workspace

NO_VERSION = kind(
    "problem.no_version", "{folder}: there is no version '{name}'.{hint} There are: {known}."
)

PLAN = "plan.json"
"""What a round in progress was begun with; the last that leaves its folder before it appears."""
ADAPTER_FILES = (trained_on.ADAPTER_FILE, trained_on.WEIGHTS_FILE)


def ids(workspace: Workspace) -> list[str]:
    """Ids of all versions, oldest first."""
    names = (path.name for path in workspace.versions.glob("v*") if path.is_dir())
    return sorted((name for name in names if VERSION_ID.fullmatch(name)), key=number_of)


def get(workspace: Workspace, name: str, *, verify: bool = True) -> ModelVersion:
    """A version by id (`v0002`, `2`), alias (`production`) or tag.

    Args:
        workspace: where to look.
        name: id, number, alias or tag.
        verify: compare every file with its checksum first.

    Raises:
        VersionError: there is no such version (the nearest are named), or it is damaged.
    """
    aliases = releases.read(workspace.releases).aliases
    name = aliases.get(name, name)
    version_id = f"v{int(name):04d}" if name.isascii() and name.isdigit() else name
    known = ids(workspace)
    if version_id not in known:
        version_id = notes.read(workspace).tags.get(name, version_id)
    if version_id not in known:
        shown = ", ".join([*aliases, *known[-8:]])
        raise VersionError(
            NO_VERSION(
                folder=workspace.folder,
                name=name,
                hint=suggest(version_id, [*known, *aliases]),
                known=shown,
            )
        )
    version = ModelVersion.read(workspace.versions / version_id)
    if verify:
        version.verify()
    return version


def lineage(version: ModelVersion) -> list[ModelVersion]:
    """A version and all it was trained from, oldest first, the base version left out."""
    chain: list[ModelVersion] = []
    while not version.is_base:
        chain.append(version)
        version = ModelVersion.read(version.folder.parent / version.parent)
    return chain[::-1]


def readable_lineage(version: ModelVersion) -> tuple[list[ModelVersion], list[VersionError]]:
    """The same for people who look at a version: what is damaged of its forebears is left out.

    Returns:
        What can be read, oldest first, and what is wrong with the others.

    Raises:
        VersionError: the version itself is damaged.
    """
    chain: list[ModelVersion] = []
    wrong: list[VersionError] = []
    place = version
    while not place.is_base:
        try:
            _ = place.scores
            chain.append(place)
        except VersionError as error:
            if place is version:
                raise
            wrong.append(error)
        try:
            place = ModelVersion.read(place.folder.parent / place.parent)
        except VersionError as error:
            return chain[::-1], [*wrong, error]
    return chain[::-1], wrong


def tasks(*ends: ModelVersion) -> tuple[Task, ...]:
    """The held-out tasks of the whole lineages of some versions, in the order they were learned.

    Questions whose answer a later version of any of these lineages corrected are left out.
    """
    versions: dict[str, ModelVersion] = {}
    gone: defaultdict[str, set[str]] = defaultdict(set)
    for chain in map(lineage, ends):
        versions |= {each.id: each for each in chain}
        for version_id, keys in retired(chain).items():
            gone[version_id] |= keys
    return tuple(
        task for each in versions.values() for task in without(each.tasks(), gone[each.id])
    )


def retired(lineage: Sequence[ModelVersion]) -> dict[str, frozenset[str]]:
    """By version of a lineage, keys of rows whose answers later versions of it corrected.

    What a version holds out again after a correction is asked again.
    """
    later: frozenset[str] = frozenset()
    keys = {}
    for version in reversed(lineage):
        keys[version.id] = later
        later |= frozenset(version.report.get("data", {}).get("retired", ()))
    return keys


def without(tasks: Iterable[Task], keys: Container[str]) -> tuple[Task, ...]:
    """Tasks without some of their rows; those that are left with none are left out."""
    kept = (replace(t, rows=tuple(row for row in t.rows if row.key not in keys)) for t in tasks)
    return tuple(task for task in kept if task.rows)


def next_id(workspace: Workspace) -> str:
    """The id of the version that is made next: one that no version ever had.

    Releases remember versions whose folders were removed by hand.
    """
    history = releases.read(workspace.releases).history
    named = {version for entry in history for version in entry.aliases.values()}
    newest = max(map(number_of, [*ids(workspace), *named]), default=-1)
    return f"v{newest + 1:04d}"


def publish(workspace: Workspace, draft: ModelVersion) -> ModelVersion:
    """Give a draft's folder its checksums and its final name, all at once.

    Args:
        workspace: where it appears.
        draft: its `folder` is the building folder; `files` is not looked at.
    """
    hashes = files.hash_folder(draft.folder, leave_out=frozenset({MANIFEST, PLAN}))
    complete = ModelVersion(**(vars(draft) | {"files": hashes}))
    files.write_json(draft.folder / MANIFEST, complete.to_json())
    return _appear(workspace, complete)


def publish_complete(workspace: Workspace) -> ModelVersion | None:
    """Give the building folder its final name if it lacks nothing else, as after a crash."""
    path = workspace.building / MANIFEST
    if not path.exists():
        return None
    try:
        version = ModelVersion(folder=workspace.building, **files.read_json(path))
        version.require_names(next_id(workspace))
        version.verify(leave_out=PLAN)
    except (ValueError, TypeError, VersionError):
        path.unlink()
        return None
    return _appear(workspace, version)


def _appear(workspace: Workspace, version: ModelVersion) -> ModelVersion:
    final = workspace.versions / version.id
    (version.folder / PLAN).unlink(missing_ok=True)
    files.publish(version.folder, final)
    return replace(version, folder=final)


def discard_unfinished(workspace: Workspace) -> None:
    """Remove what an abandoned round left behind."""
    shutil.rmtree(workspace.building, ignore_errors=True)


def create_base(workspace: Workspace, base_model: str) -> ModelVersion:
    """Publish v0000, the untouched base model with no memory and no tasks."""
    folder = workspace.versions / f".{BASE_VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    draft = _untrained(folder, BASE_VERSION, BASE_VERSION, base_model)
    return publish(workspace, draft)


def create_workspace(folder: PathLike, base_model: str, settings: str) -> Workspace:
    """A new workspace with its settings file and v0000; nothing of it is left if that fails.

    Args:
        folder: a new one.
        base_model: name or folder.
        settings: the text of the settings file.

    Raises:
        VersionError: the folder is there and not empty.
    """
    workspace = Workspace.create(folder)
    try:
        create_base(workspace, base_model)
        workspace.settings.write_text(settings, encoding="utf-8")
    except BaseException:
        shutil.rmtree(workspace.folder, ignore_errors=True)
        raise
    return workspace


def create_temporary(folder: Path, base_model: str, adapter: Path | None) -> Workspace:
    """A workspace that serves one trained model; nothing learns in it.

    Args:
        folder: a new one.
        base_model: name or folder.
        adapter: a PEFT folder, which is released; None for the base model itself.

    Raises:
        VersionError: the adapter's folder has no adapter in it.
    """
    workspace = Workspace(folder.resolve())
    workspace.versions.mkdir(parents=True)
    name = json.dumps(base_model, ensure_ascii=False)
    files.write_text(workspace.settings, f"model: {{base_model: {name}}}\n")
    create_base(workspace, base_model)
    if adapter is not None:
        version = _publish_adapter(workspace, base_model, adapter)
        releases.promote(workspace.releases, version.id, "the adapter to serve")
    return workspace


def _publish_adapter(workspace: Workspace, base_model: str, adapter: Path) -> ModelVersion:
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        raise VersionError(f"{adapter}: no {missing[0]} is there, so it is no adapter folder.")
    draft = _untrained(workspace.building, next_id(workspace), ids(workspace)[-1], base_model)
    (draft.folder / "adapter").mkdir()
    extra = [trained_on.HEAD_FILE] if (adapter / trained_on.HEAD_FILE).is_file() else []
    extra += [prompt_format.FILE] if prompt_format.kept(adapter) else []
    for name in (*ADAPTER_FILES, *extra):
        shutil.copyfile(adapter / name, draft.folder / "adapter" / name)
    files.write_jsonl(draft.folder / "data" / "held_out.jsonl", [])
    return publish(workspace, replace(draft, base_fingerprint=trained_on.read(adapter).fingerprint))


def _untrained(folder: Path, version_id: str, parent: str, base_model: str) -> ModelVersion:
    """A draft in a new folder that was taught and measured nothing."""
    folder.mkdir(parents=True)
    nothing = EvalReport(tasks={}, guard_perplexity=None, seconds=0.0)
    files.write_json(folder / REPORT, {"evaluation": nothing.to_json()})
    return ModelVersion(
        id=version_id,
        parent=parent,
        created=now(),
        base_model=base_model,
        base_fingerprint="",
        data_fingerprint="",
        num_rows=0,
        folder=folder,
        files={},
    )
