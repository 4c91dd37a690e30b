"""Where a server that speaks OpenAI's protocol is, and its names of versions."""

from pydantic import Field, field_validator

from llama_factory.core.errors import VersionError
from llama_factory.core.settings import Settings
from llama_factory.serving.remote.address import address
from llama_factory.versions.version import ModelVersion


class OpenaiSettings(Settings):
    """Of the engine `openai`."""

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

    def require_takes(self, version: ModelVersion) -> None:
        """See `EngineSettings`."""
        if not version.is_base and version.id not in self.models:
            raise VersionError(
                f"{version.id} cannot be served by {self.url}: nothing can be loaded into a server "
                "that speaks OpenAI's protocol. Where somebody has put this version there, name "
                f"it: serving.engine.models: {{{version.id}: NAME}}. Else use `serving.engine: "
                "local` or type vllm."
            )

    @field_validator("url")
    @classmethod
    def _is_address(cls, url: str) -> str:
        return address(url)
