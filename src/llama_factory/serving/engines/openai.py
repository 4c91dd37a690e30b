"""Another server as the engine, asked in OpenAI's protocol; the work is in `serving/remote/`."""

from llama_factory.inference.settings import InferenceSettings
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.engines import ENGINES, EngineSettings
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.remote.openai_settings import OpenaiSettings
from llama_factory.versions.workspace import Workspace


@ENGINES.register("openai")
class Openai(OpenaiSettings, EngineSettings):
    """Any server that speaks OpenAI's protocol; it answers as the base version."""

    def open(
        self,
        model: ModelSettings,
        workspace: Workspace,
        usual: PromptFormat,
        inference: InferenceSettings,
    ) -> AnswerEngine:
        """See `EngineSettings`; the server is asked when the first version is loaded."""
        from llama_factory.serving.remote.openai_engine import OpenaiEngine

        return OpenaiEngine(self)
