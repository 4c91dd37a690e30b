"""The processes that train together: which one this is, and what they tell each other."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

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
        backend = "cpu:gloo,cuda:nccl"  # what is offloaded lies in main memory
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
    return torch.device("cuda" if "nccl" in distributed.get_backend_config() else "cpu")
