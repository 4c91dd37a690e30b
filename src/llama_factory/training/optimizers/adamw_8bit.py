"""AdamW with moments of 8 bits. Dettmers et al. 2022, https://arxiv.org/abs/2110.02861"""

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from llama_factory.core.errors import ConfigError
from llama_factory.model.packing_libraries import missing, quieten
from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup
from llama_factory.training.optimizers.adamw import Beta

if TYPE_CHECKING:
    import torch


@OPTIMIZERS.register("adamw_8bit")
class AdamW8bit(Optimizer):
    """AdamW of bitsandbytes: a quarter of the memory of the moments."""

    bytes_per_weight: ClassVar[float] = 2

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Memory of the mean and of the square of the gradients. Higher is smoother and slower."""
    eps: float = Field(1e-8, gt=0)
    """Keeps the division finite. Higher damps weights with tiny gradients."""

    def check(self) -> None:
        """See `Optimizer.check`."""
        if needed := missing("bitsandbytes"):
            raise ConfigError(
                f"training.optimizer: adamw_8bit needs {needed}. Or use adamw (the same steps, 6 "
                "bytes more for each trained weight) or adafactor."
            )

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`."""
        self.check()
        quieten()
        library: Any = importlib.import_module("bitsandbytes.optim")  # an extra without types
        parts = [group.to_torch() for group in groups]
        made: torch.optim.Optimizer = library.AdamW8bit(parts, betas=self.betas, eps=self.eps)
        return made
