"""Another server as the engine, asked in OpenAI's protocol. The work is in `serving/remote/`."""

from pydantic import Field, field_validator

from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.settings import ModelSettings
from llama_factory.serving.engines import ENGINES, EngineSettings
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.serving.remote.address import address
from llama_factory.versions.workspace import Workspace


@ENGINES.register("openai")
class Openai(EngineSettings):
    """Any server that speaks OpenAI's protocol; it answers as the base version."""

    url: str
    """Its address with the path before `/chat/completions`: `https://api.example.org/v1`."""
    key_env: str = ""
    """Name of the environment variable that holds its key; empty sends none."""
    model: str = ""
    """The name there that answers as the base version v0000; empty takes the first listed."""
    models: dict[str, str] = {}
    """Names there that answer as other versions (`{v0003: my-bot-v3}`), for a server on which
    somebody has put them. Nothing proves that they are those versions. Others are refused."""
    probe_seconds: float = Field(30, gt=0)
    """How often it is asked whether it is there. Lower sees an outage sooner."""
    silence_seconds: float = Field(120, gt=0)
    """An answer that brings nothing for so long is given up with an error."""

    def open(self, model: ModelSettings, workspace: Workspace, usual: PromptFormat) -> AnswerEngine:
        """See `EngineSettings`; the server is asked when the first version is loaded."""
        from llama_factory.serving.remote.openai_engine import OpenaiEngine

        return OpenaiEngine(self)

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return address(url)
