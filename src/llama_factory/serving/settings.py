"""Settings of the serving layer."""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import OneOf, Settings
from llama_factory.serving.canary import CanarySettings
from llama_factory.serving.engines import ENGINES, EngineSettings
from llama_factory.serving.engines.local import Local
from llama_factory.serving.shadow_report import ShadowSettings

NO_ORIGIN = kind_of_sentence(
    "settings.no_origin",
    "'{origin}' is no origin. Write scheme, host and port alone, such as http://localhost:3000,"
    " or * for every page.",
)


class ServingSettings(Settings):
    """The API server and the limits of its answers."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` opens the server to the network, which needs a key."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes any free one and prints it."""
    keys: str = "keys.json"
    """File of the keys that clients send, by its path from the workspace; `llama-factory keys`
    creates it. Where it is there, or the environment's API_KEY is set, nobody gets in without."""
    insecure: bool = False
    """Open the server to the network although no key is set: anyone who reaches it may ask, load
    and unload. Without, that is refused."""
    engine: Annotated[EngineSettings, OneOf(ENGINES)] = Local()
    """What computes the answers: `local` runs the model in the server's own process, `vllm` and
    `openai` ask another one."""
    max_running: int = Field(32, ge=1)
    """Answers computed at the same time. More serve more people at once, each of them slower, and
    take more memory; fewer let requests wait."""
    max_queue: int = Field(128, ge=1)
    """Requests that may wait. One more is refused with status 429, so that nobody waits forever."""
    max_queue_per_key: int = Field(64, ge=1)
    """Requests of one key that may wait. One more is refused with status 429. Keys take turns in
    any case; fewer leave more of the queue to others. Without keys, `max_queue` alone holds."""
    max_versions: int = Field(8, ge=1)
    """Versions kept loaded, beside the base model. Those with an alias, and those that are
    answering, always are; others that were asked for by id leave when there are more, the least
    recently used first. More take more memory; fewer are loaded from the disk more often."""
    max_tokens: int = Field(512, ge=1)
    """Longest answer in tokens where the request does not say."""
    model_name: str = ""
    """One more name of the released version, which `/v1/models` lists too. Empty: the workspace's
    own name, the aliases and the versions alone."""
    any_model: bool = False
    """A request that names a model which is not there gets the released version, instead of status
    404: for programs that send a fixed name."""
    poll_seconds: float = Field(0.1, gt=0, le=2)
    """How often the server looks for a newly released version."""
    canary: CanarySettings = CanarySettings()
    """How a candidate is tried on a few callers (`gate.release: canary`, or `llama-factory canary
    --start`)."""
    shadow: ShadowSettings = ShadowSettings()
    """How a candidate answers beside production in spare time; nobody gets these answers."""
    max_body_mb: int = Field(1, ge=1, le=1000)
    """Largest request in MiB (1,048,576 bytes); a longer one is refused with status 413. A
    conversation of 100,000 words has less than 1 MiB. Higher lets one request take more memory."""
    feedback_days: int = Field(30, ge=0, le=3650)
    """How many days an answered request is kept, so that `POST /v1/feedback` may speak of it;
    private data is masked before anything is written. More takes later feedback and more of the
    disk; 0 keeps nothing and takes no feedback."""
    log_conversations: Literal["none", "sampled", "all"] = "none"
    """Which conversations are also kept for good, in `conversations/` of the workspace, with
    private data masked: none, the fraction `log_fraction` of them, or all."""
    log_fraction: float = Field(0.05, ge=0, le=1)
    """Fraction of conversations that `log_conversations: sampled` keeps. Higher keeps more."""
    allowed_origins: list[str] = []
    """Pages in a browser that may ask, such as `https://chat.example.org`: the server answers their
    preflight requests and names them in its answers. `*` allows every page. Empty allows none;
    programs outside of browsers need no entry."""

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            parts = urlsplit(origin)
            is_bare = parts.netloc and f"{parts.scheme}://{parts.netloc}" == origin
            if origin != "*" and not (is_bare and parts.scheme in ("http", "https")):
                raise ValueError(NO_ORIGIN(origin=origin))
        return origins
