"""Anchor: a small share of every update comes from general rows, so that general ability stays.

Replaying old *tasks* does not save general skills (Wang et al. 2023, TRACE,
https://arxiv.org/abs/2310.06762); general instruction rows do.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Example, Memory
from llama_factory.data.reading import read_examples
from llama_factory.training.strategy import STRATEGIES, ExtraSource, RunState, Strategy

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

NAME = "anchor"
KEY = f"{NAME}.key"
"""Tensor in memory, 16 bytes: content hash of the set of general rows."""
BUILT_IN = Path(__file__).parent / "anchor.jsonl"

logger = logging.getLogger(__name__)


@STRATEGIES.register(NAME)
class Anchor(Strategy):
    """Mixes general rows into every update, from the first round on."""

    reads_weights = False
    fraction: float = Field(0.125, gt=0, lt=1)
    """Share of general rows in every update. Higher keeps more, learns less."""
    weight: float | None = Field(None, gt=0, lt=1)
    """Share of general rows in the loss. Empty: the same as `fraction`."""
    answer_tokens: int | None = Field(None, ge=1)
    """Only so many tokens at the beginning of each general answer count; the rest is cut off. Lower
    is faster. Empty: whole answers."""
    dataset: Path | None = None
    """File of general rows. Empty: a built-in set of 120 in English and Chinese."""

    def mixed_in(self) -> tuple[float, float]:
        """General rows take their share of the updates and of the loss."""
        return self.fraction, self.weight or self.fraction

    def sources(self, memory: Memory) -> Sequence[ExtraSource]:
        """The general rows.

        Raises:
            ConfigError: the file is missing or holds no usable row.
        """
        rows = self._rows()
        before = memory.tensors.get(KEY)
        if before is not None and bytes(before.tolist()) != _key(rows):
            logger.warning(
                "strategies.anchor.dataset: the general rows are not those of the parent version."
            )
        return (ExtraSource(NAME, rows, self.fraction, self.weight, self.answer_tokens),)

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: RunState,
        *,
        seed: int,
    ) -> Memory:
        """Which general rows these were; the rows themselves stay in their file."""
        import torch

        key = torch.tensor(list(_key(self._rows())), dtype=torch.uint8)
        return replace(memory, tensors={**memory.tensors, KEY: key})

    def _rows(self) -> tuple[Example, ...]:
        path = self.dataset or BUILT_IN
        if not path.is_file():
            raise ConfigError(f"strategies.anchor.dataset: {path} does not exist.")
        rows = tuple(row for row in read_examples(path) if isinstance(row, Example))
        if not rows:
            raise ConfigError(f"strategies.anchor.dataset: {path} holds no usable row.")
        return rows


def _key(rows: Sequence[Example]) -> bytes:
    """Content hash of the set, whatever the order of its rows."""
    keys = " ".join(sorted(row.key for row in rows))
    return hashlib.blake2b(keys.encode(), digest_size=16).digest()
