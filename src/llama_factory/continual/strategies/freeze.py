"""Freeze: the lowest layers keep what they know in this round.

Most forgetting in the first steps is lost format, and it sits in the lowest layers (Zheng et al.
2025, https://arxiv.org/abs/2501.13453). Nothing below the first trained layer is recorded for the
backward pass, so training gets faster too.
"""

from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from llama_factory.core.errors import ConfigError
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Memory
from llama_factory.training.strategy import STRATEGIES, CallOrder, RunState, Strategy

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

NAME = "freeze"


NO_LAYERS = kind_of_sentence(
    "settings.no_layers", "must be a whole number of layers, or a fraction below 1"
)


@STRATEGIES.register(NAME)
class Freeze(Strategy):
    """Trains nothing in the lowest layers; what earlier rounds learned there stays."""

    reads_weights = False
    turn = CallOrder.FREEZES

    layers: float = Field(1 / 3, gt=0)
    """How many of the lowest layers: a number, or below 1 a fraction of all of them. Higher forgets
    less, learns less and is faster. Where it is the same in all rounds `model.freeze_layers` is
    faster still: those layers get no adapter at all."""

    @field_validator("layers")
    @classmethod
    def _is_a_number_or_a_fraction(cls, layers: float) -> float:
        if layers >= 1 and not layers.is_integer():
            raise ValueError(NO_LAYERS())
        return layers

    def prepare(self, model: "AdaptedModel", memory: Memory) -> RunState:
        """Let nothing in the lowest layers train.

        Raises:
            ConfigError: nothing would be left to train.
        """
        from llama_factory.model.layers import freeze_lowest, repeated_blocks

        _, blocks = repeated_blocks(model.network)
        count = self.count(len(blocks))
        if count < len(blocks):
            freeze_lowest(model.network, count)
        if count >= len(blocks) or not model.trainable():
            raise ConfigError(
                f"strategies.freeze.layers: {count} of the model's {len(blocks)} layers are to be "
                "frozen, and nothing would be left to train. Give fewer."
            )
        return RunState()

    def count(self, num_layers: int) -> int:
        """How many of a model's layers are frozen, at least one."""
        return int(self.layers) if self.layers >= 1 else max(1, int(self.layers * num_layers))
