"""One update: its micro-batches forward and backward, strategies at their hooks, clip, step."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_factory.model.sharding import whole
from llama_factory.training.batch import Batch
from llama_factory.training.loss_scale import lower_scale, unscale
from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses, MicroBatch
from llama_factory.training.setup import Run
from llama_factory.training.totals import Totals


@dataclass(frozen=True)
class UpdateResult:
    """What an update came to.

    Attributes:
        numbers: loss, the loss by source, the objective's own, extra terms, gradient norm.
        is_applied: whether the weights moved: an update that is not finite is skipped.
    """

    numbers: Mapping[str, float]
    is_applied: bool


def update(run: Run, batch: Batch, rate: float) -> UpdateResult:
    """One optimizer step; in float16 again at a lower loss scale where gradients overflow."""
    while True:
        result = _step(run, batch, rate)
        if result.is_applied or not lower_scale(run.fabric):
            return result


def _step(run: Run, batch: Batch, rate: float) -> UpdateResult:
    totals = Totals(len(batch.sources), run.model.device)
    surveyed = survey(run, batch)
    _compute_gradients(run, batch, surveyed, totals)
    norm = run.fabric.clip_gradients(
        run.module,
        run.optimizer,
        max_norm=run.settings.max_grad_norm or math.inf,
        error_if_nonfinite=False,
    )
    totals.set("gradient_norm", whole(norm))
    numbers = totals.read(run.processes).by_name(batch)  # waits for the device
    is_finite = math.isfinite(numbers["loss"]) and math.isfinite(numbers["gradient_norm"])
    if is_finite:
        for group in run.optimizer.param_groups:
            group["lr"] = rate * group["rate_factor"]
        run.optimizer.step()
        if surveyed is not None:
            run.kept = run.settings.objective.keep(surveyed, run.kept)
    run.optimizer.zero_grad()
    for strategy, state in run.strategies() if is_finite else ():
        strategy.after_step(run.model, state)
    return UpdateResult(numbers, is_finite)


def _compute_gradients(run: Run, batch: Batch, surveyed: Tensor | None, totals: Totals) -> None:
    """Gradients of the whole update, in their true size, as the strategies leave them."""
    own = own_micro_batches(run, batch.micro_batches)
    for number, micro in enumerate(own, start=1):
        with unsynchronised(run, enabled=number < len(own)):
            _backward(run, micro, surveyed, totals if run.counts_losses else None)
    for _ in range(num_fillers(run, batch.micro_batches)):
        _backward_zero(run, batch.micro_batches[0], surveyed)
    run.settings.parallel.finish_gradients(run.model)
    for strategy, state in run.strategies():
        for name, term in strategy.penalty(run.model, state).items():
            run.fabric.backward(term)
            totals.set(name, term)
    unscale(run.fabric, run.optimizer.optimizer)
    for strategy, state in run.strategies():
        strategy.adjust_gradients(run.model, state)


def _backward(run: Run, micro: MicroBatch, surveyed: Tensor | None, totals: Totals | None) -> None:
    """Gradients of one micro-batch, with what strategies add to its loss."""
    moved = micro.on(run.fabric.to_device)
    weighted, passed, losses = forward(run, moved, surveyed)
    log_probs = micro.objective.log_probs(passed.outputs)
    terms: dict[str, Tensor] = {}
    for strategy, state in run.strategies():
        terms |= strategy.extra_loss(run.model, moved, log_probs, state)
    total = weighted.sum() + sum(terms.values(), start=weighted.new_zeros(()))
    run.fabric.backward(total * run.processes.count)  # the gradients of processes are averaged
    if totals is not None:
        totals.add(weighted, passed.batch, losses)
        totals.add_terms(terms)


def _backward_zero(run: Run, micro: MicroBatch, surveyed: Tensor | None) -> None:
    """Gradients of zero, from a process that has no row left: others wait for its part of the sum.

    Args:
        run: in progress.
        micro: any micro-batch of the update; nothing of it counts.
        surveyed: see `survey`.
    """
    if run.settings.parallel.shards:
        _backward(run, micro.weightless(), surveyed, None)  # strategies' passes are made alike too
        return
    weighted, _, _ = forward(run, micro.on(run.fabric.to_device), surveyed)
    run.fabric.backward(0.0 * weighted.sum())


def forward(
    run: Run, micro: MicroBatch, surveyed: Tensor | None
) -> tuple[Tensor, ForwardPass, Losses]:
    """One micro-batch, which is on the device, through the model.

    Args:
        run: in progress.
        micro: the sequences.
        surveyed: see `survey`.

    Returns:
        The weighted loss of each trained token or row, the forward pass, and the plain losses.
    """
    with run.noise.on(run.model, micro.targets):
        outputs = run.module(OBJECTIVES.name_of(micro.objective), micro.ids, micro.targets)
    passed = ForwardPass(micro, outputs, surveyed)
    losses = micro.objective.losses(passed)
    is_by_row = micro.objective.unit == "row"
    shares = micro.row_coefficients if is_by_row else micro.coefficients
    return losses.values * shares, passed, losses


@torch.no_grad()
def survey(run: Run, batch: Batch) -> Tensor | None:
    """What the objective must know of the whole update before its rows are weighed."""
    passed = []
    for micro in batch.survey:
        moved = micro.on(run.fabric.to_device)
        name = OBJECTIVES.name_of(micro.objective)
        passed.append(ForwardPass(moved, run.module(name, moved.ids, moved.targets)))
    return run.settings.objective.survey(passed, run.kept) if passed else None


def own_micro_batches(run: Run, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
    """The micro-batches that this process computes: large and small ones to each.

    None where there are more processes than micro-batches.
    """
    return micro_batches[run.share :: run.num_shares]


def num_fillers(run: Run, micro_batches: Sequence[MicroBatch]) -> int:
    """Passes that count for nothing, which this process makes besides its own micro-batches.

    Where weights are sharded all processes make the same number of passes; else one is enough that
    gradients are waited for.
    """
    num_own = len(own_micro_batches(run, micro_batches))
    if run.settings.parallel.shards:
        return -(-len(micro_batches) // run.num_shares) - num_own
    return 0 if num_own else 1


def unsynchronised(run: Run, *, enabled: bool = True) -> AbstractContextManager[None]:
    """Gradients stay with this process: those of all are added up after its last micro-batch."""
    if enabled and run.processes.are_several:
        return run.settings.parallel.unsynchronised(run.fabric, run.module)
    return nullcontext()
