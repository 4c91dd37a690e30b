"""The end of a round: what was made becomes a version, and the gate's verdict moves the release."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from llama_factory.continual.gate import Verdict, read_verdict
from llama_factory.continual.settings import RoundConfig
from llama_factory.core import files
from llama_factory.core.types import Memory
from llama_factory.data import inbox
from llama_factory.evaluation.report import write_all
from llama_factory.evaluation.story import tell
from llama_factory.versions import memory, releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace


@dataclass(frozen=True)
class Round:
    """What a round came to: the new version and the gate's verdict."""

    version: ModelVersion
    verdict: Verdict


def publish(
    workspace: Workspace,
    parent: ModelVersion,
    folder: Path,
    *,
    base_fingerprint: str,
    data_fingerprint: str = "",
    num_rows: int = 0,
) -> ModelVersion:
    """Complete a folder by the page and the pictures, and give it its final name.

    Args:
        workspace: where it appears.
        parent: what it was made from.
        folder: everything of the version but its manifest, the page and the pictures.
        base_fingerprint: identifies the base model's files.
        data_fingerprint: identifies the rows that were taught.
        num_rows: that were taught.
    """
    version = ModelVersion(
        id=store.next_id(workspace),
        parent=parent.id,
        created=releases.now(),
        base_model=parent.base_model,
        base_fingerprint=base_fingerprint,
        data_fingerprint=data_fingerprint,
        num_rows=num_rows,
        folder=folder,
        files={},
    )
    write_all(tell([*store.lineage(parent), version], version), folder)
    return store.publish(workspace, version)


def release(workspace: Workspace, version: ModelVersion) -> None:
    """Move the aliases as the verdict says; files that were learned leave the inbox."""
    verdict = read_verdict(version.report)
    if verdict is None:
        return
    if not verdict.is_promoted:
        releases.hold(workspace.releases, version.id, f"refused: {verdict.summary}")
        return
    releases.promote(workspace.releases, version.id, "promoted by the gate")
    inbox.clear(workspace.inbox, version.report.get("taken", {}))


def finish_last(workspace: Workspace) -> None:
    """A crash between publishing and releasing leaves a version that no release names: name it."""
    newest = store.get(workspace, store.ids(workspace)[-1], verify=False)
    history = releases.read(workspace.releases).history
    if not any(newest.id in entry.aliases.values() for entry in history):
        release(workspace, newest)


def costs(kept: Memory, seconds: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """What each strategy spent in its hooks and keeps, and the numbers it tells of itself."""
    sizes = memory.num_bytes(kept)
    names = dict.fromkeys([*seconds, *sizes, *(key.partition(".")[0] for key in kept.numbers)])
    found: dict[str, dict[str, float]] = {
        name: {"hook_seconds": round(seconds.get(name, 0.0), 3), "bytes": sizes.get(name, 0)}
        for name in names
    }
    for key, number in kept.numbers.items():
        name, _, what = key.partition(".")
        found[name][what] = number
    return found


def write_settings(config: RoundConfig, folder: Path) -> None:
    """Keep what a version was made with."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    files.write_text(folder / "run.yaml", text)
