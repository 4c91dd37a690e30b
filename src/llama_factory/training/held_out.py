"""The loss on held-out rows during a run, the best weights so far, and when to stop."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example
from llama_factory.model.sharding import fill
from llama_factory.model.tensor_files import reading_tensors, write_tensors
from llama_factory.training.batch import Batch, BatchOptions, make_batch
from llama_factory.training.checkpoints import Position
from llama_factory.training.items import Encoding, Items, RowRef
from llama_factory.training.setup import Run
from llama_factory.training.totals import Totals
from llama_factory.training.update import forward, num_fillers, own_micro_batches, survey

SOURCE = "held_out"
BEST = "best.safetensors"
"""Beside the checkpoints: the weights with the lowest held-out loss."""


def encode_held_out(run: Run, rows: Sequence[Example], encoding: Encoding) -> Items | None:
    """The held-out rows that the run's objective can measure, where it measures any.

    Objectives that weigh whole rows are measured at the end in any case: how often the better
    answer wins is what people want to know of them.

    Raises:
        DataError: `eval_steps` is set and there is no held-out row that can be measured.
    """
    is_asked = run.settings.eval_steps is not None
    if not is_asked and run.settings.objective.unit == "token":
        return None
    items, _ = encoding.encode(rows, run.settings.objective, SILENT)
    if is_asked and not len(items):
        raise DataError(
            f"training.eval_steps is {run.settings.eval_steps} and none of {len(rows)} held-out "
            "rows can be measured. Give data.eval_path, raise data.held_out_fraction, or remove "
            "eval_steps."
        )
    return items if len(items) else None


def held_out_batch(run: Run, items: Items) -> Batch:
    """All held-out rows as one big update."""
    refs = [RowRef(SOURCE, index) for index in range(len(items))]
    options = BatchOptions(
        run.max_tokens,
        run.settings.micro_batch_size,
        shares_prefixes=run.shares_prefixes,
        is_end_to_end=run.quick.is_possible,
    )
    return make_batch(refs, {SOURCE: items}, options)


@torch.no_grad()
def measure(run: Run, batch: Batch) -> dict[str, float]:
    """Mean loss over the held-out rows, and the objective's own numbers; no dropout, no noise.

    Returns:
        `loss`, and the objective's own numbers.
    """
    run.model.network.eval()
    totals = Totals(1, run.model.device)
    surveyed = survey(run, batch)
    for micro in own_micro_batches(run, batch.micro_batches):
        weighted, passed, losses = forward(run, micro.on(run.fabric.to_device), surveyed)
        if run.counts_losses:
            totals.add(weighted, passed.batch, losses)
    if run.settings.parallel.shards:
        for _ in range(num_fillers(run, batch.micro_batches)):
            forward(run, batch.micro_batches[0].on(run.fabric.to_device), surveyed)
    run.settings.parallel.let_go(run.module)
    run.model.network.train()
    sums = totals.read(run.processes)
    return {"loss": sums.loss, **sums.means}


def keep_best(run: Run, position: Position, loss: float, folder: Path) -> Position:
    """Compare a held-out loss with the best one; better weights are kept in the folder."""
    if loss >= position.best_loss:
        return replace(position, num_worse=position.num_worse + 1)
    if run.processes.is_first or run.settings.parallel.shards:
        _write(run.model.trainable(), folder / BEST, writes=run.processes.is_first)
    run.processes.wait()
    return replace(position, best_loss=loss, best_step=position.step, num_worse=0)


def _write(weights: Mapping[str, nn.Parameter], best: Path, *, writes: bool) -> None:
    temporary = best.with_name(f".{best.name}")
    best.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(temporary, weights, writes=writes)
    if writes:
        files.sync(temporary)
        temporary.replace(best)


def restore_best(run: Run, folder: Path) -> None:
    """Give the model the best weights again."""
    with reading_tensors(folder / BEST) as (_, read):
        for name, weight in run.model.trainable().items():
            fill(weight, read(name))
