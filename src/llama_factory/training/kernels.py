"""The forward passes of a run's objectives, as the one module that Fabric carries."""

from torch import Tensor, nn

from llama_factory.model.adapted import AdaptedModel
from llama_factory.training.objectives import OBJECTIVES, Objective
from llama_factory.training.objectives.sft import Sft

PLAIN = Sft()
"""How rows of extra sources are taught that do not fit the run's objective."""


class Kernels(nn.Module):
    """A network seen through each objective.

    Args:
        model: the network to train.
        objective: of the run.
    """

    def __init__(self, model: AdaptedModel, objective: Objective) -> None:
        super().__init__()
        self.network = model.network
        # in a plain dict, so that the network's weights are registered once
        self._kernels = {OBJECTIVES.name_of(objective): objective.kernel(model)}
        self._model = model

    def forward(self, objective: str, ids: Tensor, targets: Tensor) -> Tensor:
        """What the objective of that name looks at, see `Scored.outputs`."""
        if objective not in self._kernels:  # only rows of extra sources are taught otherwise
            self._kernels[objective] = PLAIN.kernel(self._model)
        outputs: Tensor = self._kernels[objective](ids, targets)
        return outputs
