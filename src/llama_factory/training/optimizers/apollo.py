"""APOLLO: plain gradients at the rate that Adam would give each channel, which is estimated in few
random dimensions. Zhu et al. 2024, https://arxiv.org/abs/2412.05270
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup
from llama_factory.training.optimizers.adamw import Beta
from llama_factory.training.optimizers.projecting import (
    main_directions,
    random_directions,
    sides,
    smaller,
)
from llama_factory.training.optimizers.stepping import State, adam, named_matrices, stepping

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MOST_GROWTH = 1.01
"""An update is at most so many times as long as the one before it."""
SMALLEST = 1e-8


@OPTIMIZERS.register("apollo")
class Apollo(Optimizer):
    """AdamW's moments for `rank` random directions of a matrix only; its whole gradient moves it,
    scaled as they say. For `full`: nearly no memory, also with rank 1 (`per: tensor`)."""

    bytes_per_weight: ClassVar[float] = 1

    rank: int = Field(256, ge=1)
    """Directions in which a matrix is looked at. Higher is nearer to AdamW."""
    update_interval: int = Field(200, ge=1)
    """Updates after which other directions are taken."""
    scale: float = Field(1.0, gt=0)
    """Steps are longer by its square root. 1 is usual, 128 with rank 1."""
    directions: Literal["random", "main"] = "random"
    """`random`, or the `main` ones of the gradient, which cost time to find and memory to keep."""
    side: Literal["shorter", "left", "right"] = "shorter"
    """Which dimension of a matrix is made smaller: `left` is its outputs, `right` its inputs."""
    per: Literal["channel", "tensor"] = "channel"
    """What gets a rate of its own: each row or column, or the matrix as a whole."""
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
        weights = [weight for group in groups for weight in group.weights]
        numbers = {id(weight): number for number, weight in enumerate(weights)}

        def move(weight: "Tensor", gradient: "Tensor", state: State, rate: float) -> None:
            if id(weight) in chosen:
                step = self._step(gradient, state, numbers[id(weight)])
                weight.add_(step, alpha=-rate * self.scale**0.5)
            else:
                weight.add_(adam(gradient, state, self.betas, self.eps), alpha=-rate)

        return stepping(groups, move)

    def _step(self, gradient: "Tensor", state: State, number: int) -> "Tensor":
        """The gradient, each channel as long as Adam would have it, growing slowly."""
        (side,) = sides(gradient, self.side)
        low = smaller(gradient, {side: self._directions(gradient, state, side, number)})
        wanted = adam(low, state, self.betas, self.eps)
        over = None if self.per == "tensor" else (0 if side == "left" else 1)
        step = gradient * (_length(wanted, over) / (_length(low, over) + SMALLEST))
        return _limited(step, state)

    def _directions(self, gradient: "Tensor", state: State, side: str, number: int) -> "Tensor":
        """Random ones are drawn again for every update rather than kept."""
        turn, is_new = divmod(state.get("count", 0), self.update_interval)
        if self.directions == "random":
            return random_directions(gradient, self.rank, side, seed=turn * 1_000_003 + number)
        if not is_new:
            state[side] = main_directions(gradient, self.rank, side)
        kept: Tensor = state[side]
        return kept


def _length(values: "Tensor", over: int | None) -> "Tensor":
    """Of the whole, or of each channel; its dimension stays."""
    return values.norm() if over is None else values.norm(dim=over, keepdim=True)


def _limited(step: "Tensor", state: State) -> "Tensor":
    """The step, no longer than a little more than the one before."""
    length, before = step.norm(), state.get("length")
    if before is not None:
        step = step * (MOST_GROWTH * before / (length + SMALLEST)).clamp(max=1.0)
        length = length.minimum(MOST_GROWTH * before)
    state["length"] = length
    return step
