"""The versions of a workspace as a list with their mean scores."""

from dataclasses import dataclass
from statistics import fmean

from llama_factory.core.errors import VersionError
from llama_factory.core.sentences import listed, restore_kinds
from llama_factory.evaluation.wording import verdict as word
from llama_factory.versions import releases, store
from llama_factory.versions.version import ModelVersion, number_of
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
        summary: why the gate did not let it pass; empty where it did.
        is_consolidated: whether it holds the updates of all rounds in its weights.
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
    summary: str = ""
    is_consolidated: bool = False


def list_versions(
    workspace: Workspace, *, last: int | None = None, before: str | None = None
) -> list[VersionRow]:
    """Versions, oldest first, damaged ones among them; only those that are listed are read.

    Args:
        workspace: whose versions.
        last: so many, the newest; None for all.
        before: only those that were made before this one.
    """
    aliases = releases.read(workspace.releases).aliases
    known = store.ids(workspace)
    if before is not None:
        known = [each for each in known if number_of(each) < number_of(before)]
    wanted = known if last is None else known[max(0, len(known) - last) :]
    return [_row(workspace, version_id, aliases) for version_id in wanted]


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
    report = version.report
    verdict = report.get("verdict")
    checks = map(restore_kinds, (verdict or {}).get("checks", ()))
    failed = [each["reason"] for each in checks if not each["passed"]]
    return VersionRow(
        version.id,
        version.parent,
        version.created,
        version.num_rows,
        means,
        aliases,
        verdict["promoted"] if verdict else None,
        word(promoted=verdict["promoted"], held=verdict.get("held", False)) if verdict else "",
        summary=listed(failed),
        is_consolidated="consolidated" in report,
    )
