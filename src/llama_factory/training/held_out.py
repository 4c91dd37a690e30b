"""The loss on held-out rows during a run, the best weights so far, and when to stop."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llama_factory.core import files
from llama_factory.core.errors import DataError
from llama_factory.core.progress import SILENT
from llama_factory.core.types import Example
from llama_factory.training.batching import Batch, BatchOptions, make_batch
from llama_factory.training.checkpoints import Position
from llama_factory.training.items import Items
from llama_factory.training.planning import RowRef
from llama_factory.training.rows import Encoding
from llama_factory.training.update import Run, Tally, forward, own_share, survey

SOURCE = "held_out"
BEST = "best.safetensors"
"""Beside the checkpoints: the weights with the lowest held-out loss."""


def gather(run: Run, rows: Sequence[Example], encoding: Encoding) -> Items | None:
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


def as_batch(run: Run, items: Items) -> Batch:
    """All held-out rows as one big update."""
    refs = [RowRef(SOURCE, index) for index in range(len(items))]
    options = BatchOptions(
        run.max_tokens, run.settings.micro_batch_size, shares_prefixes=run.prefix.is_on
    )
    return make_batch(refs, {SOURCE: items}, options)


@torch.no_grad()
def measure(run: Run, batch: Batch) -> dict[str, float]:
    """Mean loss over the held-out rows, and the objective's own numbers; no dropout, no noise.

    Returns:
        `loss`, and what the objective tells besides.
    """
    run.model.network.eval()
    tally = Tally(1)
    found = survey(run, batch)
    for micro in own_share(run, batch.micro_batches):
        weighted, scored, losses = forward(run, micro.on(run.fabric.to_device), found)
        tally.add(weighted, scored, losses)
    run.model.network.train()
    tally.share(run.processes)
    return {"loss": float(tally.by_source.sum()), **tally.means()}


def judge(run: Run, position: Position, loss: float, best: Path) -> Position:
    """Compare a held-out loss with the best one; better weights are kept on disk."""
    if loss >= position.best_loss:
        return replace(position, num_worse=position.num_worse + 1)
    if run.processes.is_first:
        _keep(run.model.trainable(), best)
    return replace(position, best_loss=loss, best_step=position.step, num_worse=0)


def _keep(weights: Mapping[str, nn.Parameter], best: Path) -> None:
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    temporary = best.with_name(f".{best.name}")
    best.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, temporary)
    files.sync(temporary)
    temporary.replace(best)


def put_back(weights: Mapping[str, nn.Parameter], best: Path) -> None:
    """Give the model the best weights again."""
    saved = load_file(best)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(saved[name])
