"""Supervised fine-tuning: the negative log-likelihood of the answers."""

from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses
from llama_factory.training.objectives.smoothing import Smoothed

if TYPE_CHECKING:
    from torch import Tensor


TWO_LOSSES = kind_of_sentence(
    "settings.two_losses", "dft weighs the plain loss: leave label_smoothing out, or dft."
)


@OBJECTIVES.register("sft")
class Sft(Smoothed):
    """Cross-entropy on the tokens of every assistant turn."""

    dft: bool = False
    """Dynamic fine-tuning: each token's loss times its own probability, so that rows the model
    finds impossible pull less. It may generalise better and learns new facts more slowly."""

    @model_validator(mode="after")
    def _is_one_loss(self) -> Self:
        if self.dft and self.label_smoothing:
            raise ValueError(TWO_LOSSES())
        return self

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`; DFT is equation 9 of Wu et al. 2025, arXiv 2508.05629."""
        if self.dft:
            return Losses(trusted(scored.outputs))
        return Losses(self.cross_entropy(scored.outputs))


PLAIN = Sft()
"""How rows of extra sources are taught that do not fit the run's objective."""


def trusted(log_probs: "Tensor") -> "Tensor":
    """[trained tokens] losses times the probabilities of their tokens, which get no gradient."""
    return -log_probs * log_probs.detach().exp()
