"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup

if TYPE_CHECKING:
    import torch


NO_MOMENTUM = kind_of_sentence(
    "settings.no_momentum", "nesterov looks ahead along a momentum, and momentum is 0."
)


@OPTIMIZERS.register("sgd")
class Sgd(Optimizer):
    """Plain descent. It needs far higher rates than AdamW."""

    bytes_per_weight: ClassVar[float] = 4

    momentum: float = Field(0.9, ge=0, lt=1)
    """Memory of earlier gradients; 0 keeps nothing."""
    nesterov: bool = False
    """Look ahead along the momentum (Nesterov 1983); it needs a momentum."""

    @model_validator(mode="after")
    def _has_what_nesterov_needs(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError(NO_MOMENTUM())
        return self

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`."""
        from torch.optim import SGD

        parts = [group.to_torch() for group in groups]
        return SGD(parts, momentum=self.momentum, nesterov=self.nesterov)
