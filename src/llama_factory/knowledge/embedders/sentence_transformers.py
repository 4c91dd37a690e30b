"""Any model of the library sentence-transformers, on this machine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field

from llama_factory.core.errors import ConfigError
from llama_factory.knowledge.embedders import EMBEDDERS, EmbedderSettings, Vectors, unit


@EMBEDDERS.register("sentence_transformers")
class SentenceTransformers(EmbedderSettings):
    """Vectors of a model of sentence-transformers (`pip install sentence-transformers`)."""

    model: str = "intfloat/multilingual-e5-small"
    """A folder or a hub id."""
    question_prefix: str = "query: "
    """What the model expects before a question."""
    passage_prefix: str = "passage: "
    """What the model expects before a passage."""
    floor: float = Field(0.86, ge=-1, le=1)
    """Cosine from which a passage counts as found."""

    def open(self) -> "SentenceTransformersEmbedder":
        """See `EmbedderSettings`."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise ConfigError(
                "knowledge.vectors: sentence-transformers is not installed. `pip install "
                "sentence-transformers`, or choose another embedder."
            ) from error
        try:
            return SentenceTransformersEmbedder(self, SentenceTransformer(self.model))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"knowledge.vectors.model: '{self.model}' cannot be loaded ({error}). Name a "
                "folder with a model, or a hub id."
            ) from error


class SentenceTransformersEmbedder:
    """See `Embedder`."""

    def __init__(self, settings: SentenceTransformers, model: Any) -> None:
        prefixes = f"{settings.question_prefix!r} {settings.passage_prefix!r}"
        self.name = f"sentence_transformers {settings.model} {prefixes}"
        self.floor = settings.floor
        self._settings, self._model = settings, model

    def passages(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        asked = [f"{self._settings.passage_prefix}{text}" for text in texts]
        return unit(np.asarray(self._model.encode(asked), dtype=np.float32))

    def question(self, text: str) -> Vectors:
        """See `Embedder`."""
        asked = f"{self._settings.question_prefix}{text}"
        return unit(np.asarray(self._model.encode([asked])[0], dtype=np.float32))
