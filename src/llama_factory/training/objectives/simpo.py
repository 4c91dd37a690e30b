"""Simple preference optimisation: the mean log-probability of the answer is the reward, without a
reference. Meng et al. 2024, https://arxiv.org/abs/2405.14734.
"""

from pydantic import Field

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses
from llama_factory.training.objectives.paired import PreferenceObjective, compared, split


@OBJECTIVES.register("simpo")
class Simpo(PreferenceObjective):
    """The better answer's reward must be higher than the worse one's by a margin."""

    beta: float = Field(2.0, gt=0)
    """Scale of the reward. Higher separates the answers more; the paper takes 2 to 2.5."""
    gamma: float = Field(1.0, ge=0)
    """Margin between the rewards. Higher asks for more; the paper takes 0.3 to 1.6."""

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        from torch.nn.functional import logsigmoid

        better, worse = split(self.beta * scored.sums / scored.num_trained)
        values = self.taught(scored, -logsigmoid(better - worse - self.gamma))
        return Losses(values, compared(better, worse))
