"""Adafactor: one number a row and a column. Shazeer and Stern 2018, arxiv.org/abs/1804.04235"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup

if TYPE_CHECKING:
    import torch


@OPTIMIZERS.register("adafactor")
class Adafactor(Optimizer):
    """Nearly no memory: squares of the gradients by row and column only, no momentum.

    We differ from the paper in the rate: it is the one that is set, for weights of any size up to
    1. Relative to a matrix's own size LoRA's B, which starts at zero, would hardly ever move.
    """

    bytes_per_weight: ClassVar[float] = 0.1

    beta2_decay: float = Field(-0.8, lt=0)
    """How fast the memory of squares grows longer. Lower forgets old gradients later."""
    clipping_threshold: float = Field(1.0, gt=0)
    """Updates whose root mean square is above this are scaled down to it."""

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`."""
        from torch.optim import Adafactor

        parts = [group.to_torch() for group in groups]
        sizes = (None, 1.0)  # of squared gradients: torch's choice; of weights: see above
        return Adafactor(parts, beta2_decay=self.beta2_decay, eps=sizes, d=self.clipping_threshold)
