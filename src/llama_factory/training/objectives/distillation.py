"""Distillation: the student's next-token distribution is pulled to a larger model's.
Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
"""

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel


@OBJECTIVES.register("distill")
class Distillation(Objective):
    """Answers are taught together with a teacher's predictions at each of their tokens."""

    is_by_token: ClassVar[bool] = False

    teacher: str
    """The model to learn from: a short name, a folder or a hub id. It must have the same
    tokenizer."""
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions. Higher teaches more of what the teacher holds unlikely."""
    sft_weight: float = Field(0.5, ge=0, le=1)
    """Fraction of the answers' own loss; the rest is the teacher's."""

    def kernel(self, model: "AdaptedModel") -> "nn.Module":
        """[trained tokens, 2] log-probabilities and divergences from the teacher.

        Raises:
            ModelError: the teacher cannot be read, or reads text in other tokens.
        """
        from llama_factory.model.adapted import load_teacher
        from llama_factory.model.output_head import TaughtLogProbs

        return TaughtLogProbs(model.network, load_teacher(self.teacher, model), self.temperature)

    def log_probs(self, outputs: "Tensor") -> "Tensor":
        """See `Objective.log_probs`."""
        return outputs[:, 0]

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`. T^2 keeps the gradients' size as the temperature changes."""
        own, divergence = scored.outputs.unbind(1)
        taught = self.temperature**2 * divergence
        return Losses(-self.sft_weight * own + (1 - self.sft_weight) * taught)
