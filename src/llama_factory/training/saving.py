"""Checkpoints on their way to disk: a copy of the state is written while updates go on."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from llama_factory.core import files
from llama_factory.model.tensor_files import num_bytes_of, write_tensors
from llama_factory.training.checkpoints import Position, by_age
from llama_factory.training.mirror import KEPT, STATE


@dataclass(frozen=True)
class CheckpointState:
    """All that a run goes on from.

    Attributes:
        position: where it stands.
        weights: that train, by name.
        moments: tensors that the optimizer keeps, as `weight#field`.
        numbers: what else it keeps, named alike.
        scale: of the loss in float16; empty elsewhere.
    """

    position: Position
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    numbers: Mapping[str, int | float]
    scale: Mapping[str, float]

    @property
    def num_bytes(self) -> int:
        """Of its tensors."""
        return sum(map(num_bytes_of, (*self.weights.values(), *self.moments.values())))

    def copied(self, over: "CheckpointState | None" = None) -> "CheckpointState":
        """The same in main memory, which no update changes.

        Args:
            over: an earlier copy, whose memory is taken: new memory costs as much as writing.
        """
        return replace(
            self,
            position=Position(**asdict(self.position)),  # strategies go on counting in its mappings
            weights=_copies(self.weights, over.weights if over else {}),
            moments=_copies(self.moments, over.moments if over else {}),
        )


def state_of(
    position: Position,
    weights: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    scale: Mapping[str, float],
) -> CheckpointState:
    """The state of a run now; its tensors are those of the run.

    Args:
        position: where the run stands.
        weights: that train, by name.
        optimizer: over them.
        scale: of the loss in float16; empty elsewhere.
    """
    kept = dict(_kept(weights, optimizer))
    tensors = {name: value for name, value in kept.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in kept.items() if isinstance(value, int | float)}
    return CheckpointState(position, weights, tensors, numbers, scale)


def save(
    folder: Path, state: CheckpointState, *, most: int | Literal["all"] = KEPT, writes: bool = True
) -> Path:
    """Write a checkpoint under `folder` and remove the oldest ones; returns its own folder.

    Where weights are sharded every process calls this, and each tensor is whole while it is
    written. The files are the same whatever the number of processes.

    Args:
        folder: of all checkpoints.
        state: of the run.
        most: how many stay.
        writes: whether this process is the one that writes.
    """
    final = folder / f"step-{state.position.step:08d}"
    temporary = folder / f".{final.name}"
    if writes:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    write_tensors(temporary / "weights.safetensors", state.weights, writes=writes)
    write_tensors(temporary / "optimizer.safetensors", state.moments, writes=writes)
    if not writes:
        return final
    record = {
        "position": asdict(state.position),
        "optimizer_numbers": dict(state.numbers),
        "files": files.hash_folder(temporary),
        "scale": dict(state.scale),
    }
    files.write_json(temporary / STATE, record)
    shutil.rmtree(final, ignore_errors=True)
    files.publish(temporary, final)
    for old in [] if most == "all" else by_age(folder)[most:]:
        shutil.rmtree(old)
    return final


class CheckpointWriter:
    """Writes one checkpoint at a time on a thread of its own.

    Where the next one is due before the last is on disk, the run waits: so no more than one copy
    of the state is held, and checkpoints appear in their order.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._begun: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def begin(self, write: Callable[[], None]) -> None:
        """Write in the background, once what was begun before is on disk.

        Raises:
            Exception: whatever ended the one before.
        """
        self.wait()
        self._begun = self._thread.submit(write)

    def check(self) -> None:
        """Tell what went wrong meanwhile, without waiting.

        Raises:
            Exception: whatever ended the last one.
        """
        if self._begun is not None and self._begun.done():
            self.wait()

    def wait(self) -> None:
        """Until the last one is on disk.

        Raises:
            Exception: whatever ended it.
        """
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()


def _kept(
    weights: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Any]]:
    """What an optimizer keeps for each weight, as `weight#field`."""
    for name, weight in weights.items():
        for field, value in optimizer.state.get(weight, {}).items():
            yield f"{name}#{field}", value


def _copies(tensors: Mapping[str, Tensor], over: Mapping[str, Tensor]) -> dict[str, Tensor]:
    copies = {}
    for name, value in tensors.items():
        known = over.get(name)
        if known is None or (known.shape, known.dtype) != (value.shape, value.dtype):
            known = torch.empty_like(value, device="cpu", requires_grad=False)
        copies[name] = known.copy_(value.detach())
    return copies
