"""A workspace around one trained model, for as long as it is served: nothing learns in it."""

import json
import shutil
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.types import EvalReport
from llama_factory.model import lineage
from llama_factory.model.chat import prompt
from llama_factory.versions import releases, store
from llama_factory.versions.version import REPORT, ModelVersion
from llama_factory.versions.workspace import Workspace

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def make(folder: Path, base_model: str, adapter: Path | None) -> Workspace:
    """A workspace whose released version is the adapter, or the base model where there is none.

    Args:
        folder: a new one.
        base_model: name or folder.
        adapter: a PEFT folder.

    Raises:
        VersionError: the adapter's folder has no adapter in it.
    """
    workspace = Workspace(folder.resolve())
    workspace.versions.mkdir(parents=True)
    name = json.dumps(base_model, ensure_ascii=False)
    files.write_text(workspace.settings, f"model: {{base_model: {name}}}\n")
    store.create_base(workspace, base_model)
    if adapter is not None:
        version = _publish(workspace, base_model, adapter)
        releases.promote(workspace.releases, version.id, "the adapter to serve")
    return workspace


def _publish(workspace: Workspace, base_model: str, adapter: Path) -> ModelVersion:
    missing = [name for name in ADAPTER_FILES if not (adapter / name).is_file()]
    if missing:
        raise VersionError(f"{adapter}: no {missing[0]} is there, so it is no adapter folder.")
    folder = workspace.building
    (folder / "adapter").mkdir(parents=True)
    told = [prompt.FILE] if prompt.kept(adapter) else []
    for name in (*ADAPTER_FILES, *told):
        shutil.copyfile(adapter / name, folder / "adapter" / name)
    nothing = EvalReport(tasks={}, guard_perplexity=None, seconds=0.0)
    files.write_json(folder / REPORT, {"evaluation": nothing.to_json()})
    files.write_jsonl(folder / "data" / "held_out.jsonl", [])
    draft = ModelVersion(
        id=store.next_id(workspace),
        parent=store.ids(workspace)[-1],
        created=releases.now(),
        base_model=base_model,
        base_fingerprint=lineage.read(adapter).fingerprint,
        data_fingerprint="",
        num_rows=0,
        folder=folder,
        files={},
    )
    return store.publish(workspace, draft)
