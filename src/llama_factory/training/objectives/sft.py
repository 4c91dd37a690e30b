"""Supervised fine-tuning: the negative log-likelihood of the answers."""

from typing import TYPE_CHECKING

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses, Objective

if TYPE_CHECKING:
    from torch import Tensor


@OBJECTIVES.register("sft")
class Sft(Objective):
    """Cross-entropy on the tokens of every assistant turn."""

    dft: bool = False
    """Dynamic fine-tuning: each token's loss times its own probability, so that rows the model
    finds impossible pull less. It may generalise better and learns new facts more slowly."""

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`; DFT is equation 9 of Wu et al. 2025, arXiv 2508.05629."""
        return Losses(_scaled(-scored.outputs) if self.dft else -scored.outputs)


PLAIN = Sft()
"""How rows of extra sources are taught that do not fit the run's objective."""


def _scaled(nll: "Tensor") -> "Tensor":
    """[trained tokens] losses times the probabilities of their tokens, which get no gradient."""
    return nll * (-nll.detach()).exp()
