"""The processes that train together, and Fabric for a model's number format.

Loss scaling of float16: Micikevicius et al. 2018, section 3.2, https://arxiv.org/abs/1710.03740
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.plugins import Precision as FabricPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, distributed

from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.dtypes import Precision

SMALLEST_SCALE = 1.0
"""A loss scale of 1 scales nothing: gradients that are infinite there are so without float16."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """Which process this is, and how many there are.

    Attributes:
        rank: 0 for the one that writes and speaks.
        count: of all processes, on all machines.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def are_several(self) -> bool:
        """Whether there are others."""
        return self.count > 1

    def wait(self) -> None:
        """Go on when all processes are here."""
        if self.are_several:
            distributed.barrier()

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process alone, then the others: what it left on disk is there for them."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def gather(self, value: Value) -> list[Value]:
        """The plain JSON values of all processes, by rank."""
        if not self.are_several:
            return [value]
        device = _device()
        text = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)
        sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(self.count)]
        distributed.all_gather(sizes, torch.tensor([len(text)], device=device))
        padded = text.new_zeros(int(max(map(int, sizes))))
        padded[: len(text)] = text
        texts = [torch.zeros_like(padded) for _ in sizes]
        distributed.all_gather(texts, padded)
        pairs = zip(texts, sizes, strict=True)
        return [json.loads(bytes(each[: int(size)].tolist())) for each, size in pairs]

    def add_up(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """The sums over all processes of tensors of the same shapes, bit for bit the same in each.

        Args:
            tensors: of one type, where the backend sends from.
        """
        if not self.are_several:
            return tensors
        together = torch.cat([each.flatten() for each in tensors])
        distributed.all_reduce(together)
        parts = torch.split(together, [each.numel() for each in tensors])
        return [part.view_as(each) for part, each in zip(parts, tensors, strict=True)]


def current() -> Processes:
    """The processes that were joined, or this one alone."""
    if not distributed.is_initialized():
        return Processes()
    return Processes(distributed.get_rank(), distributed.get_world_size())


@contextlib.contextmanager
def process_group(*, timeout: float = 24 * 3600) -> Iterator[Processes]:
    """Meet the other processes that torchrun started, if it did.

    Args:
        timeout: seconds that one waits for another, as while the first one evaluates.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield current()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        yield current()
    finally:
        distributed.destroy_process_group()


def num_local() -> int:
    """Processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if current().are_several else 1


def _device() -> torch.device:
    """Where the backend sends from."""
    return torch.device("cuda" if distributed.get_backend() == "nccl" else "cpu")


class ScaledPrecision(MixedPrecision):
    """float16 products with a scaled loss, also where the optimizer is fused.

    Lightning refuses to clip for fused optimizers, because they can divide by the scale themselves;
    torch's scaler sees by itself that the gradients were divided already.
    """

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))
        self._is_unscaled = False

    def unscale_gradients(self, optimizer: Any) -> None:
        """Divide the gradients by the scale, once in an update."""
        if not self._is_unscaled:
            self.scaler.unscale_(optimizer)
        self._is_unscaled = True

    def optimizer_step(self, optimizer: Any, **kwargs: Any) -> Any:
        """Move the weights; from time to time the scale is doubled."""
        self._is_unscaled = False
        return super().optimizer_step(optimizer, **kwargs)

    def lower(self) -> bool:
        """Halve the scale after gradients that were not finite; the update is to be made again.

        Returns:
            Whether it was halved: not where it is 1, nor where all gradients were finite.
        """
        before = self.scaler.get_scale()
        self._is_unscaled = False
        self.scaler.update()
        if before <= SMALLEST_SCALE:
            self.scaler.update(SMALLEST_SCALE)
        return bool(self.scaler.get_scale() < before)


def open_fabric(model: AdaptedModel) -> Fabric:
    """Fabric on the model's device, computing in the model's number format."""
    device = model.device.type
    plugin = mixed(model.precision, device)
    plugins = [plugin] if plugin else []
    processes, num_here = current(), num_local()
    if not processes.are_several:
        return Fabric(accelerator=device, devices=1, plugins=plugins)
    fabric = Fabric(
        accelerator=device,
        devices=num_here,
        num_nodes=processes.count // num_here,
        # nothing in the buffers of a language model changes while it trains
        strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False),
        plugins=plugins,
    )
    fabric.launch()
    return fabric


def mixed(precision: Precision, device: str) -> FabricPrecision | None:
    """What makes products in another format than the weights that train; None where none are.

    Args:
        precision: of the model.
        device: `cpu` or `cuda`.
    """
    if not precision.is_mixed:
        return None
    if precision.dtype == torch.float16:
        return ScaledPrecision(device)
    return MixedPrecision("bf16-mixed", device)


def unscale(fabric: Fabric, optimizer: Any) -> None:
    """Gradients in their true size, for whoever looks at them before they are clipped.

    Args:
        fabric: of the run.
        optimizer: as torch made it, not as Fabric wraps it.
    """
    fabric.strategy.precision.unscale_gradients(optimizer)


def lower_scale(fabric: Fabric) -> bool:
    """After gradients that were not finite: whether the same update may succeed at a lower scale.

    Without float16 there is no scale, and so nothing to lower.
    """
    plugin = fabric.strategy.precision
    return isinstance(plugin, ScaledPrecision) and plugin.lower()


def scale_state(fabric: Fabric) -> dict[str, Any]:
    """The loss scale, for a checkpoint; empty where nothing is scaled."""
    return dict(fabric.strategy.precision.state_dict())


def restore_scale(fabric: Fabric, state: dict[str, Any]) -> None:
    """Go on with the loss scale of a checkpoint."""
    if state:
        fabric.strategy.precision.load_state_dict(state)
