"""Reward modelling: the better answer gets the higher score. Bradley and Terry 1952; as in
Ouyang et al. 2022, equation 1, https://arxiv.org/abs/2203.02155.
"""

from typing import TYPE_CHECKING, ClassVar

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses
from llama_factory.training.objectives.paired import PairObjective, compared, split

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel


@OBJECTIVES.register("reward")
class Reward(PairObjective):
    """A value head on the last token, trained with the adapter and saved beside it."""

    teaches_answers: ClassVar[bool] = False
    is_by_token: ClassVar[bool] = False

    def prepare(self, model: "AdaptedModel") -> None:
        """Add the head, unless the parent's is there."""
        from llama_factory.model import value_head

        value_head.attach(model.network, seed=0)

    def kernel(self, model: "AdaptedModel") -> "nn.Module":
        """[sequences] scores instead of log-probabilities."""
        from llama_factory.model.value_head import SequenceScores

        return SequenceScores(model.network)

    def log_probs(self, outputs: "Tensor") -> "Tensor":
        """There are none: strategies see an empty tensor."""
        return outputs.new_zeros(0)

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        from torch.nn.functional import logsigmoid

        better, worse = split(scored.outputs)
        return Losses(-logsigmoid(better - worse), compared(better, worse))
