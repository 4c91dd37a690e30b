"""How much memory a run needs, estimated before it starts, and what to do where it runs out."""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llama_factory.core.errors import FactoryError
from llama_factory.model.acceleration import recompute
from llama_factory.model.chat.encoding import EncodedRow, Sequences
from llama_factory.model.chat.token_cache import Cut
from llama_factory.model.free_memory import free_bytes
from llama_factory.model.layers import causal_of
from llama_factory.model.output_head import CHUNK_ROWS
from llama_factory.model.padding import IGNORED
from llama_factory.model.sharding import held_bytes, pieces
from llama_factory.training.batch import Batch, BatchOptions, make_batch
from llama_factory.training.items import NEW, Items, RowRef, Rows
from llama_factory.training.memory import (
    GIB,
    SCORES,
    Choice,
    MemoryEstimate,
    needs_recomputation,
    shown_bytes,
)
from llama_factory.training.objectives import MicroBatch, Objective
from llama_factory.training.plan import Plan
from llama_factory.training.setup import Run
from llama_factory.training.update import forward, unsynchronised

NVML = "pynvml"
PROBE_TOKENS = 64
MOST_STEPS_SOUGHT = 50
"""Updates among which the longest micro-batch is sought: those with the longest rows."""


def estimate_memory(run: Run, longest: MicroBatch) -> MemoryEstimate:
    """What a run with this longest micro-batch needs.

    Activations are in proportion to tokens, since attention never holds [seq, seq]: what a forward
    pass of PROBE_TOKENS tokens keeps is counted and scaled up. The output head's chunk is added:
    its scores and two temporaries of their size, in float32.
    """
    trained = run.model.trainable().values()
    num_trained_bytes = sum(held_bytes(weight) for weight in trained)
    share = float((longest.targets != IGNORED).float().mean())
    per_token = _bytes_kept(run, share) / PROBE_TOKENS
    vocabulary = causal_of(run.model.network).config.get_text_config().vocab_size
    num_tokens = run.num_read(longest)
    num_scored = min(CHUNK_ROWS, int((longest.targets != IGNORED).sum()))
    return MemoryEstimate(
        weights=sum(held_bytes(tensor) for tensor in run.model.network.parameters()),
        gradients=num_trained_bytes,
        optimizer=int(num_trained_bytes / 4 * run.settings.optimizer.bytes_per_weight),
        activations=int(per_token * num_tokens) + SCORES * num_scored * vocabulary,
    )


def _addresses(run: Run) -> set[int]:
    """Where weights are now; of a part that its process holds, where that is."""
    weights = run.model.network.parameters()
    return {part.untyped_storage().data_ptr() for each in weights for part in pieces(each)}


def _bytes_kept(run: Run, share: float) -> int:
    """Bytes that a forward pass of PROBE_TOKENS tokens keeps for the backward pass."""
    owned = _addresses(run)
    is_sharded = run.settings.parallel.shards  # weights lie elsewhere while they are whole
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        for storage in (part.untyped_storage() for part in pieces(tensor)):
            if storage.data_ptr() not in (_addresses(run) if is_sharded else owned):
                kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    micro = _probe(run.settings.objective, share).on(run.fabric.to_device)
    counting = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with torch.random.fork_rng(), unsynchronised(run), counting:
        # held until counted, or a freed address is counted once
        alive = forward(run, micro, torch.zeros((), device=run.model.device))
        num_bytes = sum(kept.values())
    del alive
    run.settings.parallel.let_go(run.module)
    return num_bytes


class _ProbeRows(Sequence[Sequences]):
    """One made-up row of PROBE_TOKENS tokens in as many sequences as the objective compares."""

    def __init__(self, num_sequences: int, share: float) -> None:
        length = PROBE_TOKENS // num_sequences
        untrained = max(1, min(length - 1, int(length * (1 - share))))
        is_trained = (False,) * untrained + (True,) * (length - untrained)
        self._row = (EncodedRow(tuple(range(1, length + 1)), is_trained),) * num_sequences

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: int) -> Sequences:  # type: ignore[override]
        return self._row

    cut = Cut()

    def lengths(self, place: int) -> tuple[int, ...]:
        """See `Encoded.lengths`."""
        return tuple(len(row.ids) for row in self._row)


def _probe(objective: Objective, share: float) -> MicroBatch:
    num_sequences = 2 if objective.unit == "row" and objective.num_trained is None else 1
    items = Items(_ProbeRows(num_sequences, share), objective)
    batch = make_batch([RowRef(NEW, 0)], {NEW: items}, BatchOptions(PROBE_TOKENS))
    return batch.micro_batches[0]


def find_longest(run: Run, plan: Plan, rows: Rows) -> MicroBatch:
    """The micro-batch with the most tokens, padding included, of the updates with most tokens."""
    return longest_of(plan, rows, run.batch_options(rows.weights), run.num_read)


def longest_of(
    plan: Plan, rows: Rows, options: BatchOptions, num_read: Callable[[MicroBatch], int]
) -> MicroBatch:
    """The same, for updates that are cut in a way.

    Args:
        plan: the rows of every update.
        rows: of the run.
        options: how an update is cut.
        num_read: tokens that are computed of a micro-batch.
    """

    def num_tokens(refs: Sequence[RowRef]) -> int:
        return max(map(rows.num_tokens, refs))

    longest = sorted(plan, key=num_tokens, reverse=True)[:MOST_STEPS_SOUGHT]
    batches = (make_batch(refs, rows.items, options) for refs in longest)
    micro_batches = (micro for batch in batches for micro in batch.micro_batches)
    return max(micro_batches, key=num_read)


def try_out(run: Run, micro: MicroBatch, estimate: MemoryEstimate) -> None:
    """One forward and backward pass that leaves no trace in weights, gradients or randomness.

    Raises:
        FactoryError: it does not fit into memory; the message says what to lower.
    """
    size = f"{micro.ids.shape[0]} rows, {micro.ids.numel()} tokens with padding"
    try:
        with torch.random.fork_rng(), unsynchronised(run):
            nothing = torch.zeros((), device=run.model.device)
            losses, _, _ = forward(run, micro.on(run.fabric.to_device), nothing)
            run.fabric.backward(losses.sum())
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise FactoryError(
            f"The longest micro-batch ({size}) does not fit into memory; the run needs {estimate}. "
            f"Lower training.micro_batch_tokens (now {run.max_tokens}; the results stay the same), "
            "then data.max_tokens, or take a smaller model. Nothing was trained yet."
        ) from error
    finally:
        run.optimizer.zero_grad()


def halve(run: Run, batch: Batch) -> bool:
    """Let micro-batches be half as large as the largest of an update that ran out of memory.

    Returns:
        Whether that can help: a single row cannot be cut, and several processes must cut alike.
    """
    run.optimizer.zero_grad()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if run.processes.are_several or all(len(micro.ids) == 1 for micro in batch.micro_batches):
        return False
    run.max_tokens = max(map(run.num_read, batch.micro_batches)) // 2
    return True


def is_out_of_memory(error: RuntimeError) -> bool:
    """On a GPU torch has a class for it, on a CPU only a text."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def holds_copy(num_bytes: int) -> bool:
    """Whether main memory has room for a copy that is needed for a while: a quarter of the rest."""
    return num_bytes <= free_bytes(torch.device("cpu")) // 4


def is_worth_trying(run: Run, estimate: MemoryEstimate) -> bool:
    """Whether to try the longest micro-batch: as set, else where memory is dear.

    A pass takes seconds on a CPU, so there it is made only where the rest of the run needs more
    than half of what is free.
    """
    if run.settings.try_longest_first is not None:
        return run.settings.try_longest_first
    device = run.model.device
    return device.type == "cuda" or estimate.to_come > free_bytes(device) / 2


def with_recomputation(estimate: MemoryEstimate, network: Any, num_tokens: int) -> MemoryEstimate:
    """What a run needs that computes activations again: the input of each layer, and one layer.

    Args:
        estimate: of the run with all activations kept.
        network: being trained.
        num_tokens: that a process computes of the longest micro-batch, padding included.
    """
    config = network.config.get_text_config()
    num_layers = config.num_hidden_layers
    size = network.get_input_embeddings().weight.element_size()
    inputs = num_layers * num_tokens * config.hidden_size * size
    return replace(estimate, activations=inputs + estimate.activations // num_layers)


def describe_choice(choice: Choice, *, is_needed: bool) -> str:
    """Whether activations are kept, and why, as a sentence."""
    if not is_needed:
        return "Activations are kept: " + ("they fit." if choice == "auto" else "as set.")
    return "Activations are computed again in the backward pass (about a third slower): " + (
        "they would not fit into memory." if choice == "auto" else "as set."
    )


def look_ahead(run: Run, plan: Plan, rows: Rows) -> list[str]:
    """What memory the run needs, in words; its longest micro-batch is tried where that is wanted.

    Where the activations do not fit, they are computed again in the backward pass.

    Raises:
        FactoryError: it does not fit into memory.
    """
    longest, free = find_longest(run, plan, rows), free_bytes(run.model.device)
    estimate = estimate_memory(run, longest)
    choice = run.settings.gradient_checkpointing
    sentences = [f"Memory: {estimate}; {shown_bytes(free)} are free for all but the weights."]
    # all decide alike: where weights are sharded, all make the same passes
    needs_it = needs_recomputation(choice, estimate, free)
    if any(run.processes.gather(needs_it)):
        recompute(run.model.network)
        sentences.append(describe_choice(choice, is_needed=True))
        own = -(-longest.ids.numel() // run.settings.parallel.context)
        estimate = with_recomputation(estimate, run.model.network, own)
    if any(run.processes.gather(is_worth_trying(run, estimate))):
        try_out(run, longest, estimate)
    return sentences


def memory_in_use(device: torch.device) -> dict[str, float]:
    """GiB in use and reserved by this process, on its GPU or else in main memory."""
    if device.type == "cuda":
        used, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        return {"memory_used_gib": used / GIB, "memory_reserved_gib": reserved / GIB}
    import psutil

    about = psutil.Process().memory_info()
    return {"memory_used_gib": about.rss / GIB, "memory_reserved_gib": about.vms / GIB}


def device_utilisation(device: torch.device) -> dict[str, float]:
    """Fraction of the last second or so in which the GPU ran anything, 0 to 1.

    Nothing on a CPU, and nothing where the library that asks the driver is missing or the driver
    does not answer, as for a part of a divided GPU.

    Args:
        device: of the model.
    """
    if device.type != "cuda" or importlib.util.find_spec(NVML) is None:
        return {}
    library: Any = importlib.import_module(NVML)
    try:
        return {"gpu_utilisation": torch.cuda.utilization(device) / 100}
    except (library.NVMLError, RuntimeError, OSError):
        return {}
