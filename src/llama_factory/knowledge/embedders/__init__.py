"""What makes vectors of texts, one kind a file; nothing heavy is imported before `open`."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llama_factory.core.settings import Registry, Settings, import_parts

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Makes vectors of texts: near each other where texts mean the same.

    Attributes:
        name: identifies the weights; vectors of different names are never compared.
        floor: cosine from which a passage counts as found.
    """

    name: str
    floor: float

    def passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors of passages: [texts, dimensions], each of length 1.

        Raises:
            FactoryError: they cannot be computed.
        """

    def question(self, text: str) -> Vectors:
        """The vector of a question: [dimensions], of length 1.

        Raises:
            FactoryError: it cannot be computed.
        """


class EmbedderSettings(Settings):
    """What makes vectors. A part holds settings only; `open` loads the model."""

    def open(self) -> Embedder | None:
        """Load it; None where no vectors are wanted.

        Raises:
            FactoryError: it is not installed, damaged, or cannot be reached.
        """
        raise NotImplementedError


def unit(vectors: Vectors) -> Vectors:
    """The same vectors, each scaled to length 1; a zero vector stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)


EMBEDDERS: Registry[EmbedderSettings] = Registry("embedder")
import_parts(__name__, __path__)
