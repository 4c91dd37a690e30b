"""A trained model as people name it: a version of a workspace, or folders of adapters."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.versions import releases, store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import SETTINGS_FILE, PathLike, Workspace

if TYPE_CHECKING:
    from llama_factory.core.types import Task
    from llama_factory.model.saved import SavedModel
    from llama_factory.model.settings import ModelSettings


@dataclass(frozen=True)
class ModelReference:
    """A model: a version of a workspace, or PEFT folders with commas between them.

    Attributes:
        name: the workspace, the folders, or where a model only answers the name of a base model.
        version: id or alias, of a workspace; None for the released one.
        base: the base model of adapters; None for the one that they name.
        changes: settings, as `--set` takes them or as a mapping.
    """

    name: str
    version: str | None = None
    base: str | None = None
    changes: Sequence[str] | Mapping[str, Any] = ()

    @staticmethod
    def of(model: ModelLike, version: str | None = None) -> ModelReference:
        """A reference as it is, or to what a path names; with a version where one is given."""
        known = model if isinstance(model, ModelReference) else ModelReference(os.fspath(model))
        return replace(known, version=version) if version else known

    def tasks(self) -> tuple[Task, ...]:
        """The held-out rows of all rounds that a version was taught; none of plain adapters."""
        return store.tasks(self._version()) if self.workspace else ()

    @property
    def evaluations(self) -> Path:
        """Where evaluations are kept by default."""
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

    @contextmanager
    def opened(self) -> Iterator[Workspace]:
        """The workspace; or one around a model that is in none, for as long as it is opened."""
        if self.workspace is not None:
            yield self.workspace
            return
        base_model, adapter = self._plain()
        with tempfile.TemporaryDirectory() as folder:
            name = Path(self.name).name or "model"
            yield store.create_temporary(Path(folder) / name, base_model, adapter)

    def _plain(self) -> tuple[str, Path | None]:
        """The base model, and the adapter if there is one, of a model that is in no workspace.

        Raises:
            VersionError: the folder holds neither.
            ModelError: the adapter does not answer with the untouched base model alone.
        """
        folder = Path(self.name)
        if not folder.exists() or (folder / "config.json").is_file():
            return self.name, None
        if not (folder / "adapter_config.json").is_file():
            raise VersionError(f"{folder} holds neither an adapter nor a model.")
        from llama_factory.model.provenance import require_plain
        from llama_factory.model.saved import find_adapters
        from llama_factory.model.settings import ModelSettings

        require_plain(folder)
        saved = find_adapters(self.name, self.base, ModelSettings())
        return saved.settings.base_model, folder

    def _version(self) -> ModelVersion:
        """The version of the workspace."""
        assert self.workspace is not None, "plain adapters have no version"
        return store.get(self.workspace, self.version or releases.PRODUCTION)


ModelLike = PathLike | ModelReference
"""A workspace (its released version), folders of adapters with commas between them, a reference."""
