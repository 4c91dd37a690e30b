"""Adam-mini: one rate for all weights of a row. Zhang et al. 2024, https://arxiv.org/abs/2406.16793"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup
from llama_factory.training.optimizers.adamw import Beta
from llama_factory.training.optimizers.stepping import State, stepping

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@OPTIMIZERS.register("adam_mini")
class AdamMini(Optimizer):
    """AdamW with one square for each row of a matrix and one for each vector: half the memory.

    A row is an output of a layer, or a token of the embeddings. The paper groups the rows of a head
    of queries and keys as well; finer groups are nearer to AdamW.
    """

    bytes_per_weight: ClassVar[float] = 4

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Memory of the mean and of the square of the gradients. Higher is smoother and slower."""
    eps: float = Field(1e-8, gt=0)
    """Keeps the division finite. Higher damps weights with tiny gradients."""

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`."""
        return stepping(groups, self._move)

    def _move(self, weight: "Tensor", gradient: "Tensor", state: State, rate: float) -> None:
        import torch

        square = gradient.square().mean(-1, keepdim=True)
        if not state:
            state |= {"count": 0, "mean": torch.zeros_like(gradient)}
            state["square"] = torch.zeros_like(square)
        state["count"] += 1
        state["mean"].lerp_(gradient, 1 - self.betas[0])
        state["square"].lerp_(square, 1 - self.betas[1])
        root = (state["square"] / (1 - self.betas[1] ** state["count"])).sqrt_().add_(self.eps)
        weight.add_(state["mean"] / root, alpha=-rate / (1 - self.betas[0] ** state["count"]))
