"""Optimizers, one file each: groups of weights -> a torch optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from llama_factory.core.settings import Registry, Settings, import_parts

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class WeightGroup:
    """Weights that an optimizer treats alike.

    Attributes:
        weights: in the model's order.
        rate: peak learning rate.
        factor: on the course of the rate, over the usual weights'.
        decay: weight decay.
        is_matrix: [out, in] inside the network, neither an embedding nor the output head.
        names: of the weights, in their order.
    """

    weights: "list[nn.Parameter]"
    rate: float
    factor: float
    decay: float
    is_matrix: bool
    names: tuple[str, ...] = ()

    def to_torch(self) -> dict[str, Any]:
        """As torch's optimizers take it."""
        return {
            "params": self.weights,
            "lr": self.rate * self.factor,
            "rate_factor": self.factor,
            "weight_decay": self.decay,
        }


class Optimizer(Settings):
    """How gradients become changes of the weights. A part holds settings only."""

    bytes_per_weight: ClassVar[float] = 8
    """What it keeps for a trained float32 weight: two moments of 4 bytes."""

    def check(self) -> None:
        """Refuse early where this machine cannot run it.

        Raises:
            ConfigError: a library or a device is missing.
        """

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """An optimizer over the groups, each with its own rate and decay.

        Its state must lie in `state[weight]` as tensors and plain numbers: checkpoints hold that.
        """
        raise NotImplementedError


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
import_parts(__name__, __path__)
