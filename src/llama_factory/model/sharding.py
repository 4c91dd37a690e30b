"""Weights of which each process holds a part: made whole, and given their part of a whole.

A part is a `DTensor` of torch. What is no part is whole, and passes as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

ROOT = "_sharding_root"


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, detached. Every process must ask for it, for each tensor in turn."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(values: Tensor, like: Tensor) -> Tensor:
    """The part of whole values that this process holds of a weight.

    Args:
        values: whole, the same in every process.
        like: the weight, or a part of it.
    """
    if not isinstance(like, DTensor):
        return values.to(like.device)
    moved = values.to(like.device_mesh.device_type)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(weight: Tensor, values: Tensor) -> None:
    """Give a weight, or this process's part of it, whole values."""
    weight.copy_(own_part(values, weight))


def held(tensor: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors of this process that a tensor is made of: itself, or bits and scales."""
    part = held(tensor)
    if is_traceable_wrapper_subclass(part):
        for name in part.__tensor_flatten__()[0]:
            yield from pieces(getattr(part, name))
        return
    yield part
    state = getattr(tensor, "quant_state", None)
    while state is not None:  # bitsandbytes keeps scales beside a weight, and scales of scales
        yield state.absmax
        state = state.state2


def held_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor that lie in this process."""
    return sum(part.numel() * part.element_size() for part in pieces(tensor))


def device_of(tensor: Tensor) -> torch.device:
    """Where a weight is computed with: a part of it may lie in main memory."""
    if isinstance(tensor, DTensor) and tensor.device_mesh.device_type == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device


def is_part(tensor: Tensor) -> bool:
    """Whether other processes hold the rest of it."""
    return isinstance(tensor, DTensor)


def remember_root(network: nn.Module, root: nn.Module) -> None:
    """Keep what gathers the weights outside of a network's layers, which is no module of it."""
    network.__dict__[ROOT] = root


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """For passes that do not begin at the root: the weights outside of the layers are whole."""
    if not is_sharded(network):
        yield
        return
    root: Any = network.__dict__[ROOT]
    root.unshard()
    try:
        yield
    finally:
        root.reshard()


def is_sharded(network: nn.Module) -> bool:
    """Whether processes share the weights of a network, so that all must compute alike.

    Asked in every pass: its root tells, whose class is another one for as long as it is sharded.
    """
    root = network.__dict__.get(ROOT)
    if root is None:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(root, FSDPModule)
