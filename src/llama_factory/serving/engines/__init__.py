"""What makes the tokens, one kind of engine a file; nothing heavy is imported before `open`."""

from typing import TYPE_CHECKING

from llama_factory.core.settings import Registry, Settings, import_parts

if TYPE_CHECKING:
    from llama_factory.inference.settings import InferenceSettings
    from llama_factory.model.chat.prompt_format import PromptFormat
    from llama_factory.model.settings import ModelSettings
    from llama_factory.serving.engines.engine import AnswerEngine
    from llama_factory.versions.version import ModelVersion
    from llama_factory.versions.workspace import Workspace


class EngineSettings(Settings):
    """Which engine answers. A part holds settings only; `open` starts the engine."""

    def open(
        self,
        model: "ModelSettings",
        workspace: "Workspace",
        usual: "PromptFormat",
        inference: "InferenceSettings",
    ) -> "AnswerEngine":
        """Start the engine with the base model and no versions.

        Args:
            model: the base model.
            workspace: whose versions will be loaded.
            usual: how versions are asked that nothing was written down for.
            inference: how models compute that run in this process.

        Raises:
            FactoryError: the model cannot be loaded, or the engine cannot be started.
        """
        raise NotImplementedError

    def require_takes(self, version: "ModelVersion") -> None:
        """Refuse a version that this kind of engine can never serve; fast, with nothing loaded.

        Raises:
            FactoryError: the reason, and what to do instead.
        """


ENGINES: Registry[EngineSettings] = Registry("engine")
import_parts(__name__, __path__)
