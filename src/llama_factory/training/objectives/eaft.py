"""Entropy-adaptive fine-tuning: tokens that the model is sure of otherwise pull less.
Diao et al. 2026, https://arxiv.org/abs/2601.02151.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses, Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel

LIKELIEST = 20
"""Tokens whose entropy stands for that of the whole vocabulary."""
HIGHEST = 3.0
"""About the largest entropy of that many, ln 20, in nats."""


@OBJECTIVES.register("eaft")
class Eaft(Objective):
    """Each answer token's loss times the entropy of the distribution that predicts it: a token that
    contradicts what the model is sure of changes little, one that it wavers at changes much."""

    alpha: float = Field(1.0, ge=0)
    """Power of the entropy. Higher spares what the model is sure of more; 0 is `sft`."""

    def kernel(self, model: "AdaptedModel") -> "nn.Module":
        """[trained tokens, 2] log-probabilities, and entropies of the likeliest tokens."""
        from llama_factory.model.token_scores import MeasuredLogProbs

        return MeasuredLogProbs(model.network, entropy)

    def log_probs(self, outputs: "Tensor") -> "Tensor":
        """See `Objective.log_probs`."""
        return outputs[:, 0]

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        own, wavering = scored.outputs.unbind(1)
        return Losses(-own * (wavering.detach() / HIGHEST) ** self.alpha)


def entropy(log_probs: "Tensor") -> "Tensor":
    """[n, vocabulary] -> [n] entropy among the likeliest tokens, in nats, without a gradient."""
    found = log_probs.detach().topk(min(LIKELIEST, log_probs.shape[-1]), dim=-1).values
    among = found.log_softmax(-1)
    return -(among.exp() * among).sum(-1)
