"""Folders of adapters that another engine reads: one LoRA a version, under a name of its own.

vLLM keys its prefix cache and its memory by name and path, and reads a folder again whenever it
dropped the adapter. So a name and what lies under it never change, and no folder is removed while
its version exists.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import FactoryError, VersionError
from llama_factory.model import provenance
from llama_factory.model.lora_config import joined_rank, unjoinable
from llama_factory.model.provenance import ADAPTER_FILE, WEIGHTS_FILE
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes as its largest rank."""


@dataclass(frozen=True)
class ServedAdapter:
    """What an engine is given of a version.

    Attributes:
        name: it asks the engine by; empty for the base version, which has no adapter.
        folder: a PEFT folder without links, which never changes.
        rank: of the adapter.
    """

    name: str
    folder: Path
    rank: int


class AdapterFolders:
    """The adapters of one workspace as another engine reads them."""

    def __init__(self, workspace: Workspace, folder: Path | None) -> None:
        """Nothing is written yet.

        Args:
            workspace: whose versions.
            folder: where they are written; None for the workspace's cache.
        """
        self._workspace = workspace
        self._folder = (folder or workspace.cache / "served_adapters").absolute()
        self._owner = re.sub(r"[^A-Za-z0-9._-]+", "_", workspace.folder.name).strip("._-") or "bot"

    def write(self, version: ModelVersion) -> ServedAdapter:
        """The folder of a version, written where it is not there yet. It blocks.

        Raises:
            VersionError: vLLM does not take what the version was trained as; the reason is named.
            ModelError: its adapter is damaged.
        """
        chain = adapters_of(version)
        rank = joined_rank(chain)
        largest_rank(rank, version.id)
        name = f"{self._owner}-{version.id}-{_digest(version)}"
        folder = self._folder / name
        if not (folder / WEIGHTS_FILE).is_file():
            from llama_factory.model.joined_lora import join

            temporary = files.temporary_beside(folder)
            try:
                join(chain, temporary, base_model=version.base_model)
                files.settle(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return ServedAdapter(name, folder, rank)

    def remove_stale(self) -> None:
        """Remove folders of versions that do not exist any more."""
        known = store.ids(self._workspace)
        for folder in self._folder.glob(f"{self._owner}-v*"):
            if folder.name.rsplit("-", 2)[1] not in known:
                shutil.rmtree(folder, ignore_errors=True)


def adapters_of(version: ModelVersion) -> tuple[Path, ...]:
    """The adapters that apply together in a version, those consolidated under it first.

    Raises:
        VersionError: one of them is no plain LoRA adapter.
    """
    if version.adapter is None:
        raise VersionError(f"{version.folder}: there is no adapter folder to serve.")
    chain = (*provenance.read(version.adapter).merged, version.adapter)
    for folder in chain:
        if what := unjoinable(folder):
            raise VersionError(
                f"{version.id} cannot be served by vLLM: its adapter {what}, and vLLM takes plain "
                "LoRA alone. Serve it with `serving.engine: local`, or make one model of it "
                "(llama-factory export) and start a workspace on that."
            )
    return chain


def largest_rank(rank: int, what: str) -> int:
    """The smallest value of vLLM's `--max-lora-rank` that takes a rank.

    Raises:
        VersionError: there is none.
    """
    fitting = [each for each in LORA_RANKS if each >= rank]
    if not fitting:
        raise VersionError(
            f"{what} cannot be served by vLLM: its updates have rank {rank} together, and vLLM "
            f"takes {LORA_RANKS[-1]} at most. Make one model of it (llama-factory export) and "
            "start a workspace on that, or use `serving.engine: local`."
        )
    return fitting[0]


def rank_to_expect(workspace: Workspace) -> int:
    """The rank that vLLM is started with: room for every version and one consolidation more."""
    largest, alone = 1, 1
    for version in _readable(workspace):
        try:
            chain = adapters_of(version)
            ranks = [joined_rank([folder]) for folder in chain]
        except FactoryError:
            continue  # it is refused with its reason when it is to be served
        largest, alone = max(largest, sum(ranks)), max(alone, *ranks)
    return next((each for each in LORA_RANKS if each >= largest + alone), LORA_RANKS[-1])


def _readable(workspace: Workspace) -> Iterable[ModelVersion]:
    for version_id in store.ids(workspace):
        try:
            yield ModelVersion.read(workspace.versions / version_id)
        except FactoryError:
            continue


def _digest(version: ModelVersion) -> str:
    """Changes whenever a weight or a setting of the version's adapters does."""
    names = (ADAPTER_FILE, WEIGHTS_FILE)
    parts = sorted(
        f"{path} {digest}" for path, digest in version.files.items() if path.endswith(names)
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
