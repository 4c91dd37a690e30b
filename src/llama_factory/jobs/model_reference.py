"""A trained model as people name it: a version of a workspace, or folders of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.core.errors import ConfigError
from llama_factory.versions import releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import SETTINGS_FILE, Workspace

if TYPE_CHECKING:
    from llama_factory.core.types import Task
    from llama_factory.model.saved import SavedModel
    from llama_factory.model.settings import ModelSettings


@dataclass(frozen=True)
class ModelReference:
    """A trained model: a version of a workspace, or PEFT folders with commas between them.

    `changes` are settings, as `--set` takes them.
    """

    name: str
    version: str | None = None
    base: str | None = None
    changes: Sequence[str] = ()

    def tasks(self) -> tuple[Task, ...]:
        """The held-out rows of all rounds that a version was taught; none of plain adapters."""
        return store.tasks(self._version()) if self.workspace else ()

    @property
    def evaluations(self) -> Path:
        """Where evaluations are kept unless told otherwise."""
        workspace = self.workspace
        if workspace is None:
            return Path("evaluations") / Path(self.name.split(",")[-1]).resolve().name
        return workspace.folder / "evaluations" / self._version().id

    @property
    def workspace(self) -> Workspace | None:
        """The workspace, if it is one."""
        folder = Path(self.name)
        is_workspace = self.version is not None or (folder / SETTINGS_FILE).is_file()
        return Workspace.open(folder) if is_workspace else None

    @property
    def settings(self) -> Path | None:
        """The file of the workspace's settings; None for plain adapters."""
        workspace = self.workspace
        return workspace.settings if workspace else None

    def find(self, model: ModelSettings) -> SavedModel:
        """Where its base model and its adapters lie."""
        from llama_factory.model.saved import find_adapters, of_version

        workspace = self.workspace
        if workspace is None:
            return find_adapters(self.name, self.base, model)
        if self.base is not None:
            raise ConfigError(
                f"--base: {self.name} is a workspace, and model.base_model in its {SETTINGS_FILE} "
                "is the base model of all its versions. Leave --base out."
            )
        version = self._version()
        adapters = (version.adapter,) if version.adapter else ()
        return of_version(model, adapters, version.base_fingerprint)

    def _version(self) -> ModelVersion:
        """The version of the workspace."""
        assert self.workspace is not None, "plain adapters have no version"
        return store.get(self.workspace, self.version or releases.PRODUCTION)
