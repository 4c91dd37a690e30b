"""What is minimised, one file each: log-probabilities of the trained tokens -> loss per token."""

from typing import TYPE_CHECKING

from llama_factory.core.settings import Registry, Settings, import_parts

if TYPE_CHECKING:
    from torch import Tensor


class Objective(Settings):
    """A loss. It returns per-token values; the loop divides by the weights of the whole update."""

    def token_losses(self, log_probs: "Tensor") -> "Tensor":
        """Loss of every trained token, unreduced.

        Args:
            log_probs: [trained tokens] log-probability of each trained token, in nats, float32.

        Returns:
            [trained tokens] in nats.
        """
        raise NotImplementedError


OBJECTIVES: Registry[Objective] = Registry("objective")
import_parts(__name__, __path__)
