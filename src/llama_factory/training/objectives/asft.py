"""Anchored supervised fine-tuning: DFT that stays near the model it began with.
Zhu et al. 2025, https://arxiv.org/abs/2509.23753.
"""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses, Objective
from llama_factory.training.objectives.sft import trusted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel


@OBJECTIVES.register("asft")
class Asft(Objective):
    """Each answer token's loss times its probability, and how far its distribution has moved since
    the start of the run."""

    reads_weights: ClassVar[bool] = True
    is_by_token: ClassVar[bool] = False

    alpha: float = Field(0.1, ge=0)
    """Weight of KL(start || model) at each token. Higher stays closer to the start and learns
    less."""

    def kernel(self, model: "AdaptedModel") -> "nn.Module":
        """[trained tokens, 2] log-probabilities, and divergences from the start of the run.

        Raises:
            ModelError: the model changes its logits after the output head.
        """
        from llama_factory.model.token_scores import ComparedWithStart

        return ComparedWithStart(model, "asft")

    def log_probs(self, outputs: "Tensor") -> "Tensor":
        """See `Objective.log_probs`."""
        return outputs[:, 0]

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        own, moved = scored.outputs.unbind(1)
        return Losses(trusted(own) + self.alpha * moved)
