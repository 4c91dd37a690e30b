"""What the objectives on plain tokens share: smoothed labels. Registers nothing itself.

Szegedy et al. 2016, section 7, https://arxiv.org/abs/1512.00567: a part of each token's
probability is spread over the whole vocabulary.
"""

from typing import TYPE_CHECKING

from pydantic import Field

from llama_factory.training.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel


class Smoothed(Objective):
    """Cross-entropy whose target may be spread over all tokens."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each token's target that is spread over the whole vocabulary. Higher learns rows by
    heart less, and answers less surely."""

    def kernel(self, model: "AdaptedModel") -> "nn.Module":
        """See `Objective.kernel`; [trained tokens, 2] with the mean log-probability of all tokens
        beside the target's where labels are smoothed."""
        if not self.label_smoothing:
            return super().kernel(model)
        from llama_factory.model.token_scores import MeasuredLogProbs

        return MeasuredLogProbs(model.network, _mean)

    def log_probs(self, outputs: "Tensor") -> "Tensor":
        """See `Objective.log_probs`."""
        return outputs[:, 0] if self.label_smoothing else outputs

    def cross_entropy(self, outputs: "Tensor") -> "Tensor":
        """[trained tokens] losses in nats."""
        if not self.label_smoothing:
            return -outputs
        own, all_tokens = outputs.unbind(1)
        return -(1 - self.label_smoothing) * own - self.label_smoothing * all_tokens


def _mean(log_probs: "Tensor") -> "Tensor":
    return log_probs.mean(-1)
