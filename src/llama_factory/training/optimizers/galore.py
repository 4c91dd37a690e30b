"""GaLore: Adam on gradients in their main directions. Zhao et al. 2024,
https://arxiv.org/abs/2403.03507
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup
from llama_factory.training.optimizers.adamw import Beta
from llama_factory.training.optimizers.projecting import (
    Side,
    main_directions,
    sides,
    smaller,
    whole,
)
from llama_factory.training.optimizers.stepping import State, adam, named_matrices, stepping

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@OPTIMIZERS.register("galore")
class GaLore(Optimizer):
    """AdamW whose moments of a matrix are kept for `rank` directions of it only, which are found
    anew now and then. For `full`: all weights train with little memory."""

    bytes_per_weight: ClassVar[float] = 1

    rank: int = Field(128, ge=1)
    """Directions of a matrix that train at a time. Higher learns more and needs more memory."""
    update_interval: int = Field(200, ge=1)
    """Updates after which the directions are found anew."""
    scale: float = Field(0.25, gt=0)
    """Factor on the steps of these matrices; the paper takes 0.25."""
    side: Side = "shorter"
    """Which dimension of a matrix is made smaller: `left` is its outputs, `right` its inputs."""
    targets: Literal["all"] | list[str] = "all"
    """Names of the layers whose matrices are treated so (`[self_attn, down_proj]`), or `all`.
    AdamW moves the others."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Memory of the mean and of the square of the gradients. Higher is smoother and slower."""
    eps: float = Field(1e-8, gt=0)
    """Keeps the division finite. Higher damps weights with tiny gradients."""

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`."""
        chosen = named_matrices(groups, self.targets, self.rank)

        def move(weight: "Tensor", gradient: "Tensor", state: State, rate: float) -> None:
            if id(weight) in chosen:
                weight.add_(self._step(gradient, state), alpha=-rate * self.scale)
            else:
                weight.add_(adam(gradient, state, self.betas, self.eps), alpha=-rate)

        return stepping(groups, move)

    def _step(self, gradient: "Tensor", state: State) -> "Tensor":
        """Adam's step in the main directions, of the weight's shape."""
        found = sides(gradient, self.side)
        if state.get("count", 0) % self.update_interval == 0:
            state |= {side: main_directions(gradient, self.rank, side) for side in found}
        directions = {side: state[side] for side in found}
        step = adam(smaller(gradient, directions), state, self.betas, self.eps)
        return whole(step, directions)
