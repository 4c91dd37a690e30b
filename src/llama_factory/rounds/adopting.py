"""A workspace goes on from an adapter that was trained elsewhere: it becomes a version of its own.

Nothing is trained. The rows that it was taught, where they are known, are those that the version
was taught: no later round teaches them again, and strategies that replay rows keep some.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.core.ownership import owned
from llama_factory.core.progress import Progress
from llama_factory.core.types import EvalReport, Memory
from llama_factory.data import prepare
from llama_factory.data.prepare import DataFolders, PreparedData
from llama_factory.data.sources.files import DataSource
from llama_factory.model import provenance
from llama_factory.rounds import draft as drafts
from llama_factory.rounds import finishing
from llama_factory.rounds.settings import LearningConfig
from llama_factory.versions import memory as memories
from llama_factory.versions import releases, store
from llama_factory.versions.version import MEMORY, REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace

COPIED = (
    *store.ADAPTER_FILES,
    *("prompt.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("chat_template.jinja", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model"),
)
"""Files of an adapter's folder that its version needs, where they are there."""


def adopt(
    workspace: Workspace,
    config: LearningConfig,
    adapter: Path,
    sources: Sequence[DataSource],
    progress: Progress,
) -> ModelVersion:
    """Make an adapter the released version of a workspace.

    Args:
        workspace: has the base version alone.
        config: its settings, whose adapter is of the same kind and shape.
        adapter: a PEFT folder.
        sources: the rows that it was taught; none where they are not known.
        progress: shows what was read.

    Raises:
        ModelError: the folder holds no adapter, or one that does not fit the settings.
        DataError: the rows cannot be read.
    """
    missing = [name for name in store.ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        raise ModelError(f"{adapter}: no {missing[0]} is there, so it is no adapter folder.")
    provenance.require_plain(adapter)
    config.model.adapter.require_fits(adapter)
    with owned(workspace.lock, what="taking in an adapter"):
        store.discard_unfinished(workspace)
        parent = store.get(workspace, releases.PRODUCTION)
        data = _history(workspace, config, parent, sources, progress)
        version = _write(workspace, config, adapter, parent, data)
        releases.promote(workspace.releases, version.id, f"adopted from {adapter}")
    return version


def _history(
    workspace: Workspace,
    config: LearningConfig,
    parent: ModelVersion,
    sources: Sequence[DataSource],
    progress: Progress,
) -> PreparedData:
    """The rows as a round would have them, all of them taught."""
    cache = workspace.cache / "data"
    folders = DataFolders(workspace.building / "data", cache, workspace.review)
    nothing: dict[str, Any] = {"held_out_fraction": 0.0, "held_out_rows": None, "cleaning": []}
    settings = config.data.model_copy(update=nothing)
    seen = drafts.seen_by(parent, cache)
    data = prepare.prepare(sources, settings, folders, seen=seen, progress=progress)
    for refused in data.report.refused:
        progress.say(f"Left out: {refused}")
    return data


def _write(
    workspace: Workspace,
    config: LearningConfig,
    adapter: Path,
    parent: ModelVersion,
    data: PreparedData,
) -> ModelVersion:
    folder = workspace.building
    (folder / "adapter").mkdir(parents=True)
    for name in COPIED:
        if (adapter / name).is_file():
            shutil.copyfile(adapter / name, folder / "adapter" / name)
    memories.save(_kept(config, data), folder / MEMORY)
    finishing.write_settings(config, folder)
    keeps = config.data.keep_rows
    report = {
        "data": drafts.describe_data(data.report, keep_rows=keeps),
        "num_rows": len(data.train),
        "taken": {},
        "adopted": {"from": str(adapter)},
        "evaluation": EvalReport(tasks={}, guard_perplexity=None, seconds=0.0).to_json(),
        "base_fingerprint": provenance.read(adapter).fingerprint,
        "base_guard_perplexity": None,
    }
    files.write_json(folder / REPORT, report)
    drafts.strip(folder, workspace, keep_rows=keeps)
    return finishing.publish(workspace, parent, folder)


def _kept(config: LearningConfig, data: PreparedData) -> Memory:
    """What strategies keep of the rows."""
    memory = Memory()
    for strategy in config.strategies:
        memory = strategy.keep(tuple(data.train), memory, seed=config.training.seed)
    return memory
