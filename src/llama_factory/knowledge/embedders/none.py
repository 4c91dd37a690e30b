"""No vectors: passages are found by their words alone."""

from llama_factory.knowledge.embedders import EMBEDDERS, EmbedderSettings


@EMBEDDERS.register("none")
class NoVectors(EmbedderSettings):
    """Passages are found by their words alone."""

    def open(self) -> None:
        """See `EmbedderSettings`."""
