"""Supervised fine-tuning: the negative log-likelihood of the answers."""

from typing import TYPE_CHECKING

from llama_factory.training.objectives import OBJECTIVES, Objective

if TYPE_CHECKING:
    from torch import Tensor


@OBJECTIVES.register("sft")
class Sft(Objective):
    """Cross-entropy on the tokens of every assistant turn."""

    def token_losses(self, log_probs: "Tensor") -> "Tensor":
        """See `Objective.token_losses`."""
        return -log_probs
