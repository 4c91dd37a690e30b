"""Muon: every matrix moves by its orthogonalised momentum, the rest by AdamW.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. The step of a matrix is scaled to
the size that AdamW's would have (Liu et al. 2025, equation 4, https://arxiv.org/abs/2502.16982), so
that one learning rate serves both.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup
from llama_factory.training.optimizers.adamw import Beta

if TYPE_CHECKING:
    import torch
    from torch import optim


@OPTIMIZERS.register("muon")
class Muon(Optimizer):
    """Muon for matrices inside the network; embeddings, head, norms and biases by AdamW."""

    bytes_per_weight: ClassVar[float] = 4

    momentum: float = Field(0.95, ge=0, lt=1)
    """Memory of the gradients of matrices. Higher is smoother and slower."""
    nesterov: bool = True
    """Look ahead along the momentum."""
    newton_schulz_steps: int = Field(5, ge=1, lt=100)
    """Rounds of the orthogonalisation. More is more exact and slower."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's, for all that is no matrix."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's, for all that is no matrix."""

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`."""
        from torch import optim

        matrices = [group.to_torch() for group in groups if group.is_matrix]
        others = [group.to_torch() for group in groups if not group.is_matrix]
        parts: list[optim.Optimizer] = []
        if matrices:
            parts.append(
                optim.Muon(
                    matrices,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.newton_schulz_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        if others:
            parts.append(optim.AdamW(others, betas=self.betas, eps=self.eps, fused=True))
        return _join(parts)


def _join(parts: "Sequence[optim.Optimizer]") -> "optim.Optimizer":
    """Optimizers over different weights as one.

    Its groups and its state are those of its parts, so rates and checkpoints reach them all.
    """
    from torch import optim

    class Joined(optim.Optimizer):
        def __init__(self) -> None:
            super().__init__([group for part in parts for group in part.param_groups], {})
            # not copies: a rate set here must be the part's, and a state restored here too
            self.param_groups = [group for part in parts for group in part.param_groups]
            for part in parts:
                part.state = self.state

        def step(self, closure: Any = None) -> Any:
            assert closure is None, "the loop computes the gradients itself"
            for part in parts:
                part.step()

    return Joined()
