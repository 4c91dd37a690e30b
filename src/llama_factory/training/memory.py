"""Bytes that a run needs on each of its devices, by what they are for. No device is asked here.

Everything a model keeps is linear in its layers and in tokens, since attention never holds
[seq, seq]: see `model/shape.py`. What a device needs besides tensors is an allowance.
"""

from dataclasses import dataclass, replace
from typing import Literal

from llama_factory.model.output_head import CHUNK_ROWS
from llama_factory.model.shape import Amount, ModelShape

Choice = bool | Literal["auto"]
USABLE = 0.9
"""Fraction of the free memory that an estimate may fill: the allocator needs some room as well."""
GIB = 2**30
LEAST = 0.9
"""Of the tensors counted: fused and compiled programs keep a little less."""
MOST = 1.1
"""Of the tensors counted: blocks that the allocator cannot use, and small temporaries."""
PROGRAM = int(1.5 * GIB)
"""Of a process on a GPU besides tensors: CUDA's context, its kernels, workspaces of libraries."""
GATHERED_AT_ONCE = 2
"""Groups of sharded weights that are whole at once: the one that computes, and the next one."""
SCORES = 3 * 4
"""Bytes that a chunk of the output head takes for each score: it, and two temporaries, float32."""
NOTHING = Amount(0.0, 0.0)
NAMES = ("weights", "gradients", "optimizer", "activations", "temporary")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run needs on a device at its peak.

    Attributes:
        weights: of the model, as loaded; a part of them where they are sharded.
        gradients: of the trained weights.
        optimizer: what it keeps for the trained weights.
        activations: what the longest micro-batch keeps for its backward pass.
        temporary: weights that are whole or unpacked for a moment, and sums that processes send.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int = 0

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.to_come

    @property
    def to_come(self) -> int:
        """All but the weights, which are loaded already."""
        return self.gradients + self.optimizer + self.activations + self.temporary

    @property
    def least(self) -> int:
        """The low end of what a GPU is expected to show."""
        return int(LEAST * self.total)

    @property
    def most(self) -> int:
        """The high end of what a GPU is expected to show, the program itself with it."""
        return int(MOST * self.total) + PROGRAM

    def to_json(self) -> dict[str, int]:
        """Bytes by part."""
        parts = {name: getattr(self, name) for name in NAMES}
        return parts | {"total": self.total, "least": self.least, "most": self.most}

    def __str__(self) -> str:
        more = f", temporary {shown_bytes(self.temporary)}" if self.temporary else ""
        return (
            f"about {shown_bytes(self.total)} (weights {shown_bytes(self.weights)}, gradients "
            f"{shown_bytes(self.gradients)}, optimizer {shown_bytes(self.optimizer)}, activations "
            f"of the longest micro-batch {shown_bytes(self.activations)}{more})"
        )


@dataclass(frozen=True)
class Load:
    """What one device computes at once.

    Attributes:
        num_tokens: of the longest micro-batch, padding included.
        num_scored: of them that are taught.
        optimizer_bytes: what the optimizer keeps for a trained float32 weight.
        recomputes: activations are computed again in the backward pass.
        is_quick: layers are quick ones, which keep less of a token.
    """

    num_tokens: int
    num_scored: int
    optimizer_bytes: float = 8.0
    recomputes: bool = False
    is_quick: bool = False

    def part(self, count: int) -> "Load":
        """What one of several computes that share each row."""
        return replace(
            self, num_tokens=-(-self.num_tokens // count), num_scored=-(-self.num_scored // count)
        )

    def recomputing(self) -> "Load":
        """The same with activations computed again."""
        return replace(self, recomputes=True)


@dataclass(frozen=True)
class Sharing:
    """How devices share a run.

    Attributes:
        count: of them.
        shards: each holds a part of weights, gradients and optimizer state; else each holds all.
        offloads: these parts lie in main memory while they are not computed with.
        context: how many of them compute each row together, a part each.
    """

    count: int = 1
    shards: bool = False
    offloads: bool = False
    context: int = 1

    def __str__(self) -> str:
        if self.count == 1:
            return "all on one"
        together = f", {self.context} compute a row" if self.context > 1 else ""
        if not self.shards:
            return f"each holds all (ddp{together})"
        rest = ", the rest in main memory" if self.offloads else ""
        return f"each holds a part (fsdp{rest}{together})"


ALONE = Sharing()


def memory_needed(shape: ModelShape, load: Load, sharing: Sharing = ALONE) -> MemoryEstimate:
    """What each device needs at the peak of an update.

    Args:
        shape: of the model with its adapter.
        load: what a device computes at once.
        sharing: with how many others, and how.
    """
    weights = shape.weight_bytes.of(shape.num_layers)
    trained = shape.trained_bytes.of(shape.num_layers)
    temporary, share = float(shape.unpacked_bytes), 1.0
    if sharing.shards and sharing.count > 1:
        share = 0.0 if sharing.offloads else 1 / sharing.count
        temporary += _gathered(shape)
    elif sharing.count > 1:
        temporary += trained  # the buckets in which gradients are sent hold each once more
    own, gathered = load.part(sharing.context), 0.0
    if sharing.context > 1:
        gathered = float(shape.key_bytes * (load.num_tokens - own.num_tokens))
        temporary += shape.key_bytes * load.num_tokens  # gradients of one layer's, of whole rows
    scores = SCORES * min(CHUNK_ROWS, own.num_scored) * shape.vocabulary
    layers = 1 if load.recomputes else shape.num_layers
    return MemoryEstimate(
        weights=int(share * weights),
        gradients=int(share * trained),
        optimizer=int(share * trained / 4 * load.optimizer_bytes),
        activations=int(_kept(shape, own) + layers * gathered + scores),
        temporary=int(temporary),
    )


def _kept(shape: ModelShape, load: Load) -> float:
    """Bytes of activations, and of the copies of weights in the number format of products."""
    quick = shape.quick_kept_bytes if load.is_quick else None
    kept, copied = (shape.kept_bytes, shape.copied_bytes) if quick is None else (quick, NOTHING)
    if not load.recomputes:
        n = shape.num_layers
        return kept.of(n) * load.num_tokens + copied.of(n)
    inputs = shape.num_layers * shape.input_bytes
    return inputs * load.num_tokens + kept.of(1) * load.num_tokens + copied.of(1)


def _gathered(shape: ModelShape) -> float:
    """Bytes of the largest groups of weights that are whole at once, and of their gradients."""
    weights, trained = shape.weight_bytes, shape.trained_bytes
    outside = weights.outside + trained.outside
    return max(GATHERED_AT_ONCE * weights.layer + trained.layer, outside + weights.layer)


def shown_bytes(num_bytes: int) -> str:
    """As people read it."""
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / 2**20:.0f} MiB"


def needs_recomputation(choice: Choice, estimate: MemoryEstimate, free: int) -> bool:
    """Whether activations are computed again in the backward pass.

    Args:
        choice: `training.gradient_checkpointing`; `auto` decides by the estimate.
        estimate: of the run with all activations kept.
        free: bytes left once the weights are loaded.
    """
    return choice if isinstance(choice, bool) else estimate.to_come > USABLE * free
