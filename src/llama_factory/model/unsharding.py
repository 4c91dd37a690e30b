"""A sharded network made whole again, as it was before, in every process."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llama_factory.model.sharding import is_part, whole

HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
)
"""What sharding adds to a module besides another class."""


def undoing(network: nn.Module) -> Callable[[], None]:
    """Remember modules as they are; what is returned brings them back, with whole weights.

    Args:
        network: not sharded yet.
    """
    known = [(module, type(module), _hooks(module)) for module in network.modules()]

    def undo() -> None:
        for module, kind, hooks in known:
            module.__class__ = kind
            for name, each in hooks.items():
                now = getattr(module, name)  # not another object: handles of hooks hold on to it
                now.clear()
                now.update(each)
        _gather(network)

    return undo


def _hooks(module: nn.Module) -> dict[str, Any]:
    return {name: getattr(module, name).copy() for name in HOOKS}


@torch.no_grad()
def _gather(network: nn.Module) -> None:
    """Put whole weights in the place of parts; what was one object stays one."""
    made: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is None or not is_part(weight):
                continue
            if id(weight) not in made:
                made[id(weight)] = nn.Parameter(whole(weight), weight.requires_grad)
            module._parameters[name] = made[id(weight)]
