"""vLLM as the engine; the work is in `serving/vllm/`."""

from llama_factory.inference.settings import InferenceSettings
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.engines import ENGINES, EngineSettings
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.vllm.adapter_folders import adapters_of
from llama_factory.serving.vllm.settings import VllmSettings
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace


@ENGINES.register("vllm")
class Vllm(VllmSettings, EngineSettings):
    """vLLM, started and watched by this server, or running at an address."""

    def open(
        self,
        model: ModelSettings,
        workspace: Workspace,
        usual: PromptFormat,
        inference: InferenceSettings,
    ) -> AnswerEngine:
        """See `EngineSettings`; vLLM itself starts when the first version is loaded."""
        from llama_factory.serving.vllm.engine import VllmEngine

        return VllmEngine(self, workspace, model, usual)

    def require_takes(self, version: ModelVersion) -> None:
        """See `EngineSettings`."""
        if not version.is_base:
            adapters_of(version)
