"""Optimizers that are a rule for one weight at a time. Registers nothing itself."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from llama_factory.training.optimizers import WeightGroup

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

State = dict[str, Any]
"""What is kept of one weight from update to update: tensors and plain numbers."""
Move = Callable[["nn.Parameter", "Tensor", State, float], None]
"""Moves a weight by its gradient at a rate, and keeps what it needs in the state."""


def stepping(groups: Sequence[WeightGroup], move: Move) -> "torch.optim.Optimizer":
    """A torch optimizer over groups of weights out of a rule for one of them.

    Weight decay is decoupled: a weight is pulled towards zero by the rate, whatever its gradient.
    """
    import torch

    class Stepping(torch.optim.Optimizer):
        def __init__(self) -> None:
            super().__init__([group.to_torch() for group in groups], {})

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            assert closure is None, "the loop computes the gradients itself"
            for group in self.param_groups:
                for weight in group["params"]:
                    if weight.grad is not None:
                        weight.mul_(1 - group["lr"] * group["weight_decay"])
                        move(weight, weight.grad, self.state[weight], group["lr"])

    return Stepping()


def adam(gradient: "Tensor", state: State, betas: tuple[float, float], eps: float) -> "Tensor":
    """The direction of Adam's step, of the gradient's shape; its moments stay in the state.

    Kingma and Ba 2015, algorithm 1, https://arxiv.org/abs/1412.6980
    """
    import torch

    if "mean" not in state:
        state |= {"count": 0, "mean": torch.zeros_like(gradient)}
        state["square"] = torch.zeros_like(gradient)
    state["count"] += 1
    state["mean"].lerp_(gradient, 1 - betas[0])
    state["square"].mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    root = (state["square"] / (1 - betas[1] ** state["count"])).sqrt_().add_(eps)
    return state["mean"] / (1 - betas[0] ** state["count"]) / root


def named_matrices(
    groups: Sequence[WeightGroup], targets: Literal["all"] | list[str], fewest: int
) -> set[int]:
    """Ids of the matrices that are large enough and, unless all are, named.

    Args:
        groups: all weights.
        targets: parts of the names (`q_proj`, `mlp`), or `all`.
        fewest: rows and columns that a matrix must have more of.

    Raises:
        ConfigError: a name that is no weight's.
    """
    from llama_factory.core.errors import ConfigError

    matrices = {
        name: weight
        for group in groups
        if group.is_matrix
        for name, weight in zip(group.names, group.weights, strict=True)
    }
    for target in [] if targets == "all" else targets:
        if not any(target in name.split(".") for name in matrices):
            known = sorted({part for name in matrices for part in name.split(".")[-3:-1]})
            raise ConfigError(
                f"training.optimizer.targets: no trained matrix is called '{target}'. Known: "
                f"{', '.join(part for part in known if not part.isdigit())}."
            )
    return {
        id(weight)
        for name, weight in matrices.items()
        if min(weight.shape) > fewest
        and (targets == "all" or any(target in name.split(".") for target in targets))
    }
