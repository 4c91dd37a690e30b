"""The versions of a workspace as a list with their mean scores."""

from dataclasses import dataclass
from statistics import fmean

from llama_factory.core.errors import VersionError
from llama_factory.evaluation.wording import verdict as word
from llama_factory.versions import releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace


@dataclass(frozen=True)
class VersionRow:
    """A version in a list.

    Attributes:
        id: its id.
        parent: what it was made from.
        created: UTC time, ISO 8601.
        num_rows: rows taught in its round.
        scores: mean over its tasks by metric.
        aliases: that point to it.
        promoted: whether the gate let it pass; None without a verdict.
        gate: `promoted`, `held` or `refused`; empty without a verdict.
        problem: what is damaged of it; nothing else is known then but the id and the aliases.
    """

    id: str
    parent: str
    created: str
    num_rows: int
    scores: dict[str, float]
    aliases: list[str]
    promoted: bool | None
    gate: str = ""
    problem: str = ""


def list_versions(workspace: Workspace) -> list[VersionRow]:
    """All versions, oldest first, damaged ones among them."""
    aliases = releases.read(workspace.releases).aliases
    return [_row(workspace, version_id, aliases) for version_id in store.ids(workspace)]


def _row(workspace: Workspace, version_id: str, aliases: dict[str, str]) -> VersionRow:
    own = [alias for alias, target in aliases.items() if target == version_id]
    try:
        return _described(ModelVersion.read(workspace.versions / version_id), own)
    except VersionError as error:
        return VersionRow(version_id, "", "", 0, {}, own, None, problem=str(error))


def _described(version: ModelVersion, aliases: list[str]) -> VersionRow:
    tasks = version.scores.tasks.values()
    names = dict.fromkeys(name for task in tasks for name in task.scores)
    means = {name: fmean(t.scores[name] for t in tasks if name in t.scores) for name in names}
    verdict = version.report.get("verdict")
    return VersionRow(
        version.id,
        version.parent,
        version.created,
        version.num_rows,
        means,
        aliases,
        verdict["promoted"] if verdict else None,
        word(promoted=verdict["promoted"], held=verdict.get("held", False)) if verdict else "",
    )
