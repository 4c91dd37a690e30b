"""Settings of the serving layer."""

from pydantic import Field

from llama_factory.core.settings import Settings


class ServingSettings(Settings):
    """The API server and the limits of its answers."""

    host: str = "127.0.0.1"
    """Address to listen on. `0.0.0.0` opens the server to the network: set API_KEY then."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes any free one and prints it."""
    max_queue: int = Field(32, ge=1)
    """Requests that may wait. One more is refused with status 429, so that nobody waits forever."""
    max_tokens: int = Field(512, ge=1)
    """Longest answer in tokens where the request does not say."""
    poll_seconds: float = Field(0.5, gt=0, le=2)
    """How often the server looks for a newly released version."""
