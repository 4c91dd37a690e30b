"""The plan of one run on this machine: its rows are read as the run would, its weights are not."""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llama_factory.core import files
from llama_factory.core.durations import shown_seconds
from llama_factory.core.progress import Progress
from llama_factory.jobs.starting import prepare_rows
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.base import load_tokenizer
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.dtypes import choose
from llama_factory.model.free_memory import free_bytes
from llama_factory.model.known_configs import config_of
from llama_factory.model.padding import IGNORED
from llama_factory.model.settings import ModelSettings
from llama_factory.model.shape import ModelShape, shape_of
from llama_factory.model.source import resolve_outline
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.batch import BatchOptions, make_batch
from llama_factory.training.device_memory import longest_of
from llama_factory.training.items import NEW, Encoding, Rows, encode_all
from llama_factory.training.memory import (
    NAMES,
    Load,
    MemoryEstimate,
    memory_needed,
    needs_recomputation,
    shown_bytes,
)
from llama_factory.training.objectives import MicroBatch
from llama_factory.training.plan import Plan, plan_run
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import most_tokens
from llama_factory.training.strategy import Protection

USUAL_SHARE = 0.4
"""Of the rate of matrix products that a run reaches, measured with LoRA on SmolLM2 on a CPU (see
benchmarks/results/train_speed-2026-11-21.json); short rows and small models reach less."""
QUICK_SHARE = 0.55
"""The same with quick layers in bfloat16; in float32 more (docs/log.md)."""
MOST_STEPS_COUNTED = 50
MEASURE_SECONDS = 0.2


@dataclass(frozen=True)
class RunPlan:
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
        memory = {name: getattr(self.memory, name) for name in (*NAMES, "total")}
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


def plan_this_run(config: LearningConfig, progress: Progress) -> RunPlan:
    """Read and clean the rows as the run would, and work out memory and time.

    What was read and made tokens is kept in the cache, so the run has it then.

    Args:
        config: of the run.
        progress: shows how far it is.

    Raises:
        FactoryError: the message says what is wrong with model or rows.
    """
    settings, training = config.model, config.training
    folder = resolve_outline(settings.base_model)
    shape = shape_of(config_of(str(folder), trust_remote_code=settings.trust_remote_code), settings)
    reader = _reader(settings, folder, config)
    with tempfile.TemporaryDirectory() as place:
        data = prepare_rows(config, Path(place) / "rows", progress)
        tokens = files.cache_folder() / "tokens"
        encoding = Encoding(reader, training, tokens)
        rows = encode_all(encoding, data.train, Protection(()), progress)
    return plan_rows(shape, rows, settings, training)


def plan_rows(
    shape: ModelShape, rows: Rows, settings: ModelSettings, training: TrainingSettings
) -> RunPlan:
    """Memory and time of teaching rows to a model of this shape.

    Args:
        shape: of the model with its adapter.
        rows: of the run.
        settings: which number format.
        training: length, batch, optimizer.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan, options = plan_run(rows, training), planned_options(shape, rows, training, device)
    load = _load(training, longest_of(plan, rows, options, options.num_read), options)
    memory, free = memory_needed(shape, load), free_bytes(torch.device(device))
    is_recomputed = needs_recomputation(
        training.gradient_checkpointing, memory, max(0, free - memory.weights)
    )
    if is_recomputed:
        memory = memory_needed(shape, load.recomputing())
    items = rows.items[NEW]
    rate = _worked_out(shape, settings, device, is_quick=options.is_end_to_end)
    return RunPlan(
        memory,
        free,
        device,
        len(items),
        len(plan),
        sum(rows.num_tokens(each) for refs in plan for each in refs),
        max(items.num_tokens(number) for number in range(len(items))),
        shape.num_trained,
        shape.num_weights,
        rate / read_per_token(plan, rows, options),
        is_recomputed,
    )


def _reader(settings: ModelSettings, folder: Path, config: LearningConfig) -> AdaptedModel:
    """What makes tokens of rows: the model as far as its tokenizer goes."""
    tokenizer = load_tokenizer(
        folder,
        trust_remote_code=settings.trust_remote_code,
        template=settings.template,
        replaces=settings.replace_template,
    )
    return AdaptedModel(torch.nn.Identity(), tokenizer, "", encode_options(config.data))


def planned_options(
    shape: ModelShape, rows: Rows, training: TrainingSettings, device: str
) -> BatchOptions:
    """How the run will cut its updates, as far as can be known before the model is loaded.

    Without quick layers what rows share at their beginning counts for each of them, though it may
    be read once.
    """
    is_quick = shape.quick_kept_bytes is not None and training.uses_quick_layers(device)
    is_quick = is_quick and not training.parallel.reads_plainly
    return BatchOptions(
        most_tokens(training, device, is_quick=is_quick),
        training.micro_batch_size,
        training.weighting,
        rows.weights,
        shares_prefixes=is_quick and training.shares_prefixes(device),
        is_end_to_end=is_quick,
    )


def _load(settings: TrainingSettings, longest: MicroBatch, options: BatchOptions) -> Load:
    """What the longest micro-batch computes."""
    return Load(
        options.num_read(longest),
        int((longest.targets != IGNORED).sum()),
        settings.optimizer.bytes_per_weight,
        is_quick=options.is_end_to_end,
    )


def read_per_token(plan: Plan, rows: Rows, options: BatchOptions) -> float:
    """Tokens that go through the model for each token of the rows: padding, or what is shared.

    Counted in some updates, spread evenly over the run.
    """
    some = plan[:: -(-len(plan) // MOST_STEPS_COUNTED)]
    batches = [make_batch(refs, rows.items, options) for refs in some]
    micro_batches = (micro for each in batches for micro in (*each.micro_batches, *each.survey))
    return sum(map(options.num_read, micro_batches)) / sum(each.num_tokens for each in batches)


def _worked_out(
    shape: ModelShape, settings: ModelSettings, device: str, *, is_quick: bool
) -> float:
    """Tokens per second of products alone, of which a run reaches a share.

    Counted for a token: each frozen weight once forward and, above the lowest layers that are
    frozen, once for the gradient of its input, each trained one once more for its own; once is a
    product and a sum.
    """
    forward = shape.multiplied.of(shape.num_layers)
    below = forward * settings.freeze_layers / shape.num_layers
    per_token = 2 * forward + 2 * (forward - below) + 2 * shape.num_trained
    rate = _rate(shape.width, choose(settings.dtype).dtype, device)
    return (QUICK_SHARE if is_quick else USUAL_SHARE) * rate / per_token


def _rate(width: int, dtype: torch.dtype, device: str) -> float:
    """Operations per second of a product as the model has them, measured."""
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
