"""Odds-ratio preference optimisation: teaching and preferring at once, without a reference.
Hong et al. 2024, https://arxiv.org/abs/2403.07691.
"""

from pydantic import Field

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses
from llama_factory.training.objectives.paired import PreferenceObjective, compared, split


@OBJECTIVES.register("orpo")
class Orpo(PreferenceObjective):
    """The better answer's mean loss, and `beta` times that of the odds between both answers."""

    beta: float = Field(0.1, gt=0)
    """Weight of the preference beside the plain loss. Higher separates the answers more."""

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        import torch
        from torch.nn.functional import logsigmoid

        means = scored.sums / scored.num_trained
        better, worse = split(means)
        # log odds = log p - log(1 - p); 1 - p through expm1, since p may be next to 1
        odds = means - torch.log(-torch.expm1(means.clamp(max=-1e-7)))
        preferred, refused = split(odds)
        values = -better - self.beta * logsigmoid(preferred - refused)
        return Losses(self.taught(scored, values), compared(self.beta * better, self.beta * worse))
