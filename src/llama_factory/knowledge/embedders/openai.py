"""An endpoint that speaks OpenAI's `POST /embeddings`."""

import os
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from pydantic import Field

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.knowledge.embedders import EMBEDDERS, EmbedderSettings, Vectors, unit


@EMBEDDERS.register("openai")
class OpenAIEndpoint(EmbedderSettings):
    """Vectors of an endpoint that speaks OpenAI's protocol; it is sent the documents' texts."""

    url: str
    """Its address up to `/v1`, such as http://127.0.0.1:8080/v1."""
    model: str
    """The model's name there."""
    key_env: str = ""
    """Name of the environment variable that holds its key; empty where it needs none."""
    question_prefix: str = ""
    """What the model expects before a question."""
    passage_prefix: str = ""
    """What the model expects before a passage."""
    floor: float = Field(0.5, ge=-1, le=1)
    """Cosine from which a passage counts as found. It differs from model to model."""
    seconds: float = Field(30, gt=0)
    """Longest wait for one response."""

    def open(self) -> "EndpointEmbedder":
        """See `EmbedderSettings`."""
        key = os.environ.get(self.key_env, "") if self.key_env else ""
        if self.key_env and not key:
            raise ConfigError(
                f"knowledge.vectors.key_env: the environment has no {self.key_env}. Set it to the "
                "endpoint's key, or leave key_env empty."
            )
        return EndpointEmbedder(self, key)


class EndpointEmbedder:
    """See `Embedder`."""

    def __init__(self, settings: OpenAIEndpoint, key: str) -> None:
        prefixes = f"{settings.question_prefix!r} {settings.passage_prefix!r}"
        self.name = f"openai {settings.url} {settings.model} {prefixes}"
        self.floor = settings.floor
        self._settings = settings
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(headers=headers, timeout=settings.seconds)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        return self._vectors([f"{self._settings.passage_prefix}{text}" for text in texts])

    def question(self, text: str) -> Vectors:
        """See `Embedder`."""
        vectors = self._vectors([f"{self._settings.question_prefix}{text}"])
        return np.asarray(vectors[0], dtype=np.float32)

    def _vectors(self, texts: Sequence[str]) -> Vectors:
        body = {"model": self._settings.model, "input": list(texts), "encoding_format": "float"}
        url = f"{self._settings.url.rstrip('/')}/embeddings"
        try:
            response = self._client.post(url, json=body)
            response.raise_for_status()
            return unit(_read(response.json(), len(texts)))
        except (httpx.HTTPError, httpx.InvalidURL, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"knowledge.vectors: {url} gave no vectors ({type(error).__name__}: {error}). Is "
                "it running, and does it know the model?"
            ) from error


def _read(response: Any, num: int) -> Vectors:
    listed = sorted(response["data"], key=lambda each: each["index"])
    vectors = np.asarray([each["embedding"] for each in listed], dtype=np.float32)
    if vectors.shape[:1] != (num,) or vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"{num} texts were sent, and vectors of shape {vectors.shape} came")
    return vectors
