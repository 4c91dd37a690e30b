"""A sharded network made whole again, as it was before, in every process or in the first."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llama_factory.model.sharding import device_of, is_part, whole

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


def undoing(
    network: nn.Module, *, in_place: bool = False, writes: bool = True
) -> Callable[[], None]:
    """Remember modules as they are; what is returned brings them back, with whole weights.

    Args:
        network: not sharded yet.
        in_place: its frozen weights lie in their files, to which they return; what was trained is
            made whole on the CPU.
        writes: whether this process writes what was trained; without it, where weights are in
            place, it gets none of that.
    """
    known = [(module, type(module), _hooks(module)) for module in network.modules()]
    frozen = _frozen(network) if in_place else {}

    def undo() -> None:
        for module, kind, hooks in known:
            module.__class__ = kind
            for name, each in hooks.items():
                now = getattr(module, name)  # not another object: handles of hooks hold on to it
                now.clear()
                now.update(each)
        _gather(network, partial(_on_cpu, writes=writes) if in_place else _at_work, frozen)
        if in_place:
            network.to("cpu" if writes else "meta")

    return undo


def _frozen(network: nn.Module) -> dict[tuple[nn.Module, str], nn.Parameter]:
    """Under another name each: sharding moves the weights themselves to the GPU."""
    return {
        (module, name): nn.Parameter(weight.detach(), requires_grad=False)
        for module in network.modules()
        for name, weight in module._parameters.items()
        if weight is not None and not weight.requires_grad
    }


def _at_work(weight: Tensor) -> Tensor:
    """Whole, where it is computed with."""
    return whole(weight).to(device_of(weight))


def _on_cpu(weight: Tensor, *, writes: bool) -> Tensor:
    """All must ask, and one keeps it."""
    values = whole(weight)
    return values.to("cpu" if writes else "meta")


def _hooks(module: nn.Module) -> dict[str, Any]:
    return {name: getattr(module, name).copy() for name in HOOKS}


@torch.no_grad()
def _gather(
    network: nn.Module,
    make: Callable[[Tensor], Tensor],
    frozen: Mapping[tuple[nn.Module, str], nn.Parameter],
) -> None:
    """Put whole weights in the place of parts; what was one object stays one."""
    made: dict[int, nn.Parameter] = {}
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is None or not is_part(weight):
                continue
            if id(weight) not in made:
                before = frozen.get((module, name))
                made[id(weight)] = (
                    nn.Parameter(make(weight), weight.requires_grad) if before is None else before
                )
            module._parameters[name] = made[id(weight)]
