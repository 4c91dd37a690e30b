"""Anchor: a small share of every update comes from general rows, so that general ability stays.

Replaying old *tasks* does not save general skills (Wang et al. 2023, TRACE,
https://arxiv.org/abs/2310.06762); general instruction rows do.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Example, Memory
from llama_factory.data.reading import read_examples
from llama_factory.training.strategy import STRATEGIES, Source, Strategy

NAME = "anchor"
BUILT_IN = Path(__file__).parent / "anchor.jsonl"


@STRATEGIES.register(NAME)
class Anchor(Strategy):
    """Mixes general rows into every update, from the first round on."""

    fraction: float = Field(0.125, gt=0, lt=1)
    """Share of general rows in every update and of its loss. Higher keeps more, learns less."""
    dataset: Path | None = None
    """File of general rows. Empty: a built-in set of 120 in English and Chinese."""

    def sources(self, memory: Memory) -> Sequence[Source]:
        """The general rows.

        Raises:
            ConfigError: the file is missing or holds no usable row.
        """
        path = self.dataset or BUILT_IN
        if not path.is_file():
            raise ConfigError(f"strategies.anchor.dataset: {path} does not exist.")
        rows = tuple(row for row in read_examples(path) if isinstance(row, Example))
        if not rows:
            raise ConfigError(f"strategies.anchor.dataset: {path} holds no usable row.")
        return (Source(NAME, rows, self.fraction),)
