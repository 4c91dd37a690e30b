"""What a run will need and how long it may take, before any weight is read."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.outline import Outline
from llama_factory.model.output_head import CHUNK_ROWS
from llama_factory.model.padding import IGNORED
from llama_factory.training.batch import BatchOptions
from llama_factory.training.device_memory import (
    PROBE_TOKENS,
    MemoryEstimate,
    free_bytes,
    longest_of,
    needs_recomputation,
    shown_bytes,
    with_recomputation,
)
from llama_factory.training.items import NEW, Encoding, Rows, encode_all
from llama_factory.training.plan import Plan, plan_run
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import most_tokens
from llama_factory.training.strategy import Protection

USUAL_SHARE = 0.4
"""Of the rate of matrix products that a run reaches, measured with LoRA on SmolLM2 on a CPU (see
benchmarks/results/train_speed-2026-11-21.json); short rows and small models reach less."""
MEASURE_SECONDS = 0.2


@dataclass(frozen=True)
class Forecast:
    """A run before it begins.

    Attributes:
        memory: bytes at its peak; what strategies keep, and the program itself, come on top.
        free: bytes that the device has now.
        device: `cpu` or `cuda`.
        num_rows: that are taught in one pass.
        num_updates: planned.
        num_tokens: of all updates, without padding.
        longest_row: in tokens.
        num_trained: weights that train.
        num_weights: of the whole model.
        tokens_per_second: of training, worked out.
        is_recomputed: whether activations are computed again, since they would not fit.
    """

    memory: MemoryEstimate
    free: int
    device: str
    num_rows: int
    num_updates: int
    num_tokens: int
    longest_row: int
    num_trained: int
    num_weights: int
    tokens_per_second: float
    is_recomputed: bool

    @property
    def seconds(self) -> float:
        """Time of training alone: the model is loaded before, and tests come on top."""
        return self.num_tokens / self.tokens_per_second

    @property
    def fits(self) -> bool:
        """Whether the device has enough free memory for all of it."""
        return self.memory.total <= self.free

    def to_json(self) -> dict[str, Any]:
        """Plain values; bytes and seconds."""
        memory = {name: getattr(self.memory, name) for name in PARTS}
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "memory"}
        return {"memory": memory, **own, "seconds": self.seconds, "fits": self.fits}

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.num_rows} rows, the longest of {self.longest_row} tokens; "
                f"{self.num_updates} updates with {self.num_tokens} tokens",
                f"{self.num_trained / 1e6:.2f} of {self.num_weights / 1e6:.1f} million weights "
                "train",
                f"Memory: {self.memory}; {shown_bytes(self.free)} are free"
                + ("" if self.fits else ": TOO LITTLE"),
                f"Time: about {shown_seconds(self.seconds)} of training at "
                f"{self.tokens_per_second:.0f} tokens/s, worked out; loading and tests come on top",
            ]
        )


PARTS = ("weights", "gradients", "optimizer", "activations", "total")


def shown_seconds(seconds: float) -> str:
    """As people read it."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def forecast(
    about: Outline,
    examples: Sequence[Example],
    settings: TrainingSettings,
    *,
    tokens: Path,
    progress: Progress,
) -> Forecast:
    """What a run of these rows will need.

    Args:
        about: the model.
        examples: the rows to teach.
        settings: of training.
        tokens: folder of rows that are tokens already.
        progress: shows how far it is.

    Raises:
        DataError: no row can be taught.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = encode_all(Encoding(about.model, settings, tokens), examples, Protection(()), progress)
    plan = plan_run(rows, settings)
    memory, num_read = _memory(about, settings, plan, rows, device)
    free = free_bytes(torch.device(device))
    is_recomputed = needs_recomputation(
        settings.gradient_checkpointing, memory, max(0, free - memory.weights)
    )
    if is_recomputed:
        memory = with_recomputation(memory, about.model.network, num_read)
    items = rows.items[NEW]
    return Forecast(
        memory,
        free,
        device,
        len(items),
        len(plan),
        sum(rows.num_tokens(each) for refs in plan for each in refs),
        max(items.num_tokens(number) for number in range(len(items))),
        about.num_trained,
        about.num_weights,
        _worked_out(about, device),
        is_recomputed,
    )


def _memory(
    about: Outline, settings: TrainingSettings, plan: Plan, rows: Rows, device: str
) -> tuple[MemoryEstimate, int]:
    """The estimate, and the tokens of the longest micro-batch.

    What rows share at their beginning counts for each of them, though it may be read once.
    """
    options = BatchOptions(
        most_tokens(settings, device), settings.micro_batch_size, settings.weighting, rows.weights
    )
    longest = longest_of(plan, rows, options, Tensor.numel)
    num_read = longest.ids.numel()
    num_scored = min(CHUNK_ROWS, int((longest.targets != IGNORED).sum()))
    kept = about.bytes_kept(PROBE_TOKENS) / PROBE_TOKENS * num_read
    memory = MemoryEstimate(
        weights=about.weight_bytes,
        gradients=about.trained_bytes,
        optimizer=int(about.trained_bytes / 4 * settings.optimizer.bytes_per_weight),
        activations=int(kept) + 3 * 4 * num_scored * about.vocabulary,
    )
    return memory, num_read


def _worked_out(about: Outline, device: str) -> float:
    """Tokens per second of products alone, of which a run reaches a share.

    Counted for a token: each frozen weight once forward and once for the gradient of its input,
    each trained one once more for its own; once is a product and a sum.
    """
    frozen = sum(each.numel() for each in about.layers() if not each.requires_grad)
    head = int(about.model.network.get_output_embeddings().weight.numel())
    per_token = 4 * (frozen + head) + 6 * about.num_trained
    return USUAL_SHARE * _rate(about.model, device) / per_token


def _rate(model: AdaptedModel, device: str) -> float:
    """Operations per second of a product as the model has them, measured."""
    width = int(model.network.config.get_text_config().hidden_size)
    dtype = model.precision.dtype
    left = torch.randn(512, width, device=device).to(dtype)
    right = torch.randn(width, 4 * width, device=device).to(dtype)
    count, start = 0, 0.0
    while count < 3 or time.perf_counter() - start < MEASURE_SECONDS:
        torch.matmul(left, right)
        if device == "cuda":
            torch.cuda.synchronize()
        count += 1
        start = start or time.perf_counter()  # the first one warms up
    return 2 * 512 * width * 4 * width * (count - 1) / (time.perf_counter() - start)
