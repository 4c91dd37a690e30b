"""Adam with decoupled weight decay. Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup

if TYPE_CHECKING:
    import torch

Beta = Annotated[float, Field(ge=0, lt=1)]


@OPTIMIZERS.register("adamw")
class AdamW(Optimizer):
    """AdamW in torch's fused form; moments in the weights' own format."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Memory of the mean and of the square of the gradients. Higher is smoother and slower."""
    eps: float = Field(1e-8, gt=0)
    """Keeps the division finite. Higher damps weights with tiny gradients."""

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`."""
        from torch.optim import AdamW

        parts = [group.to_torch() for group in groups]
        return AdamW(parts, betas=self.betas, eps=self.eps, fused=True)
