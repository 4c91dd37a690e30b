"""BAdam: AdamW on one layer at a time. Luo et al. 2024, https://arxiv.org/abs/2404.02827"""

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llama_factory.core.errors import ConfigError
from llama_factory.training.optimizers import OPTIMIZERS, Optimizer, WeightGroup
from llama_factory.training.optimizers.adamw import Beta
from llama_factory.training.optimizers.stepping import State, adam, stepping

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

LAYER = re.compile(r"(?:^|\.)(\d+)\.")
"""The number of a layer in the name of a weight."""


@OPTIMIZERS.register("badam")
class BAdam(Optimizer):
    """All layers train, but one at a time, for some updates each: gradients and moments of that one
    are all that is kept. Weights outside the layers stay as they are."""

    bytes_per_weight: ClassVar[float] = 0.5

    switch_interval: int = Field(50, ge=1)
    """Updates of a layer before it is another's turn. Lower gets round more often, and each turn
    begins with no moments."""
    order: Literal["ascending", "descending", "random", "fixed"] = "ascending"
    """Whose turn it is next; `fixed`: `start_layer` trains alone."""
    start_layer: int | None = Field(None, ge=0)
    """The layer that begins. Empty: the first one of the order."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Memory of the mean and of the square of the gradients. Higher is smoother and slower."""
    eps: float = Field(1e-8, gt=0)
    """Keeps the division finite. Higher damps weights with tiny gradients."""

    def build(self, groups: Sequence[WeightGroup]) -> "torch.optim.Optimizer":
        """See `Optimizer.build`.

        Raises:
            ConfigError: nothing that trains lies in a layer, or not in the one that begins.
        """
        layers = _layers(groups)
        order = sorted(set(layers.values()))
        if not order:
            raise ConfigError(
                "training.optimizer: badam trains one layer at a time, and no weight that trains "
                "lies in a layer. Use adapter type full, or another optimizer."
            )
        if self.start_layer is not None and self.start_layer not in order:
            raise ConfigError(
                f"training.optimizer.start_layer is {self.start_layer}, and the layers that train "
                f"are {order[0]} to {order[-1]}. Name one of them, or leave it out."
            )

        def move(weight: "nn.Parameter", gradient: "Tensor", state: State, rate: float) -> None:
            weight.add_(adam(gradient, state, self.betas, self.eps), alpha=-rate)

        made = stepping(groups, move)
        _Turns(made, layers, lambda done: self._turn(order, done // self.switch_interval))
        return made

    def _turn(self, layers: Sequence[int], turn: int) -> int:
        """The layer that trains in a turn."""
        start = 0 if self.start_layer is None else layers.index(self.start_layer)
        if self.order == "fixed":
            return layers[start]
        if self.order == "ascending":
            return layers[(start + turn) % len(layers)]
        if self.order == "descending":
            start = len(layers) - 1 if self.start_layer is None else start
            return layers[(start - turn) % len(layers)]
        cycle, place = divmod(turn, len(layers))
        drawn = Random(cycle).sample(list(layers), len(layers))
        return drawn[place]


def _layers(groups: Sequence[WeightGroup]) -> "dict[nn.Parameter, int]":
    """The layer of each weight that lies in one."""
    found = {}
    for group in groups:
        for name, weight in zip(group.names, group.weights, strict=True):
            number = LAYER.search(name)
            if number is not None:
                found[weight] = int(number[1])
    return found


class _Turns:
    """Gradients and moments of one layer at a time: those of others are let go at once.

    Args:
        optimizer: over these weights and others, which then stay as they are.
        layers: of each weight that has turns.
        turn: updates done -> the layer that trains next.
    """

    def __init__(
        self,
        optimizer: "torch.optim.Optimizer",
        layers: "Mapping[nn.Parameter, int]",
        turn: Callable[[int], int],
    ) -> None:
        self._optimizer = optimizer
        self._layers = layers
        self._turn = turn
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.register_post_accumulate_grad_hook(self._let_go)
        optimizer.register_step_pre_hook(self._forget)
        optimizer.register_step_post_hook(self._count)

    def _active(self) -> int:
        return self._turn(self._state().get("updates", 0))

    def _state(self) -> State:
        """Where the updates are counted: a checkpoint holds what is kept of weights."""
        state: State = self._optimizer.state[next(iter(self._layers))]
        return state

    def _let_go(self, weight: "nn.Parameter") -> None:
        if self._layers.get(weight) != self._active():
            weight.grad = None

    def _forget(self, *_: object) -> None:
        active = self._active()
        for weight, layer in self._layers.items():
            state = self._optimizer.state[weight]
            for name in [name for name in state if layer != active and name != "updates"]:
                del state[name]

    def _count(self, *_: object) -> None:
        state = self._state()
        state["updates"] = state.get("updates", 0) + 1
