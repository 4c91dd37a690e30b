"""One update: its micro-batches forward and backward, strategies at their hooks, one descent."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.liger import use_liger
from llama_factory.model.shared_prefix import SharedPrefix
from llama_factory.training.batching import Batch, MicroBatch
from llama_factory.training.costs import Costs
from llama_factory.training.groups import weight_groups
from llama_factory.training.kernels import Kernels
from llama_factory.training.neftune import EmbeddingNoise
from llama_factory.training.objectives import OBJECTIVES, Losses, Scored
from llama_factory.training.parallel.precision import lower_scale, open_fabric, unscale
from llama_factory.training.parallel.processes import Processes, current
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import Protection


@dataclass
class Run:
    """Everything an update needs.

    Attributes:
        fabric: carries devices and precision.
        module: objective, tokens and targets -> what the objective looks at.
        optimizer: over the trained weights.
        model: being trained.
        settings: of the run.
        protection: strategies and what they remember.
        costs: of the strategies' hooks.
        noise: on the embeddings, where asked for.
        prefix: what sequences begin with in common is read once.
        max_tokens: of a micro-batch; it shrinks where memory runs out.
        processes: that share every update.
    """

    fabric: Fabric
    module: Any
    optimizer: Any
    model: AdaptedModel
    settings: TrainingSettings
    protection: Protection
    costs: Costs
    noise: EmbeddingNoise
    prefix: SharedPrefix
    max_tokens: int
    processes: Processes


def start(
    model: AdaptedModel,
    settings: TrainingSettings,
    protection: Protection,
    costs: Costs | None = None,
) -> Run:
    """Put the model and its optimizer on the device, ready to train."""
    if settings.liger_kernel:
        use_liger(model.network)
    kernels = Kernels(model, settings.objective)
    groups = weight_groups(model, settings)
    optimizer = settings.optimizer.build(groups)
    fabric = open_fabric(model)
    module, wrapped = fabric.setup(kernels, optimizer)
    model.network.train()
    noise = EmbeddingNoise(settings.neftune_alpha)
    prefix = SharedPrefix(model.network, is_wanted=settings.shares_prefixes(model.device.type))
    max_tokens = settings.micro_batch_tokens or _default_tokens(model.device)
    return Run(
        fabric=fabric,
        module=module,
        optimizer=wrapped,
        model=model,
        settings=settings,
        protection=protection,
        costs=costs or Costs(),
        noise=noise,
        prefix=prefix,
        max_tokens=max_tokens,
        processes=current(),
    )


def _default_tokens(device: torch.device) -> int:
    return 16384 if device.type == "cuda" else 512


@dataclass(frozen=True)
class Update:
    """What an update came to.

    Attributes:
        numbers: loss, the loss by source, extra terms, gradient norm.
        is_applied: whether the weights moved: an update that is not finite is skipped.
    """

    numbers: dict[str, float]
    is_applied: bool


def update(run: Run, batch: Batch, rate: float) -> Update:
    """One optimizer step; in float16 again at a lower scale where gradients overflow."""
    while True:
        made = _try(run, batch, rate)
        if made.is_applied or not lower_scale(run.fabric):
            return made


def _try(run: Run, batch: Batch, rate: float) -> Update:
    memory = run.protection.memory
    tally = Tally(len(batch.sources))
    found = survey(run, batch)
    own = own_share(run, batch.micro_batches)
    for number, micro in enumerate(own, start=1):
        with apart(run, enabled=number < len(own)):
            _backward(run, micro, found, tally)
    if not own:
        _backward_nothing(run, batch.micro_batches[0], found)
    tally.share(run.processes)
    for strategy in run.protection.strategies:
        with run.costs.of(strategy):
            _backward_terms(run, strategy.penalty(run.model, memory), tally)
    unscale(run.fabric, run.optimizer.optimizer)
    for strategy in run.protection.strategies:
        with run.costs.of(strategy):
            strategy.adjust_gradients(run.model, memory)
    loss = float(tally.by_source.sum())
    norm, is_applied = _descend(run, rate, loss)
    for strategy in run.protection.strategies if is_applied else ():
        with run.costs.of(strategy):
            strategy.after_step(run.model, memory)
    names = zip(batch.sources, tally.by_source.tolist(), batch.shares, strict=True)
    losses = {f"loss_{name}": value / share for name, value, share in names}
    numbers = {"loss": loss, **losses, **tally.means(), **tally.terms, "gradient_norm": norm}
    return Update(numbers, is_applied)


def own_share(run: Run, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
    """The micro-batches that this process computes: large and small ones to each.

    None where there are more processes than micro-batches.
    """
    return micro_batches[run.processes.rank :: run.processes.count]


def apart(run: Run, *, enabled: bool = True) -> AbstractContextManager[None]:
    """Gradients stay with this process: those of all are added up after its last micro-batch."""
    if enabled and run.processes.are_several:
        return run.fabric.no_backward_sync(run.module)
    return nullcontext()


class Tally:
    """What the micro-batches of an update came to together.

    Attributes:
        by_source: [sources] each source's part of the loss.
        terms: what strategies added to it, by name.
    """

    def __init__(self, num_sources: int) -> None:
        self.by_source = torch.zeros(num_sources)
        self.terms: dict[str, float] = {}
        self._totals: dict[str, Tensor] = {}

    def add(self, weighted: Tensor, scored: Scored, losses: Losses) -> None:
        """Count the losses of a micro-batch and the objective's own numbers."""
        is_by_row = scored.batch.objective.unit == "row"
        sources = scored.batch.row_sources if is_by_row else scored.batch.sources
        parts = weighted.new_zeros(len(self.by_source)).index_add(0, sources, weighted.detach())
        self.by_source += parts.cpu()
        for name, values in losses.numbers.items():
            there = values[~values.isnan()]
            seen = torch.stack([there.sum(), there.new_tensor(len(there))]).cpu()
            self._totals[name] = self._totals.get(name, torch.zeros(2)) + seen

    def share(self, processes: Processes) -> None:
        """Add what the other processes counted."""
        if not processes.are_several:
            return
        totals = {name: pair.tolist() for name, pair in self._totals.items()}
        told = processes.gathered([self.by_source.tolist(), self.terms, totals])
        self.by_source = torch.tensor([sources for sources, _, _ in told]).sum(0)
        names = dict.fromkeys(name for _, terms, _ in told for name in terms)
        self.terms = {name: sum(terms.get(name, 0.0) for _, terms, _ in told) for name in names}
        counted = [(name, torch.tensor(pair)) for _, _, each in told for name, pair in each.items()]
        self._totals = {}
        for name, pair in counted:
            self._totals[name] = self._totals.get(name, torch.zeros(2)) + pair

    def means(self) -> dict[str, float]:
        """The objective's own numbers, averaged over the rows that have them."""
        return {name: float(total / n) for name, (total, n) in self._totals.items() if n}


def forward(run: Run, micro: MicroBatch, found: Tensor | None) -> tuple[Tensor, Scored, Losses]:
    """One micro-batch, which is on the device, through the model.

    Args:
        run: in progress.
        micro: the sequences.
        found: what the survey of the update found.

    Returns:
        The weighted loss of each trained token or row, what the model said, and the plain losses.
    """
    with run.noise.on(run.model, micro.targets):
        outputs = run.module(OBJECTIVES.name_of(micro.objective), micro.ids, micro.targets)
    scored = Scored(micro, outputs, found)
    losses = micro.objective.losses(scored)
    is_by_row = micro.objective.unit == "row"
    shares = micro.row_coefficients if is_by_row else micro.coefficients
    return losses.values * shares, scored, losses


@torch.no_grad()
def survey(run: Run, batch: Batch) -> Tensor | None:
    """What the objective must know of the whole update before its rows are weighed."""
    scored = []
    for micro in batch.survey:
        moved = micro.on(run.fabric.to_device)
        name = OBJECTIVES.name_of(micro.objective)
        scored.append(Scored(moved, run.module(name, moved.ids, moved.targets)))
    return run.settings.objective.survey(scored) if scored else None


def _backward(run: Run, micro: MicroBatch, found: Tensor | None, tally: Tally) -> None:
    """Gradients of one micro-batch, with what strategies add to its loss."""
    moved = micro.on(run.fabric.to_device)
    weighted, scored, losses = forward(run, moved, found)
    log_probs = micro.objective.log_probs(scored.outputs)
    terms: dict[str, Tensor] = {}
    for strategy in run.protection.strategies:
        with run.costs.of(strategy):
            terms |= strategy.extra_loss(run.model, moved, log_probs, run.protection.memory)
    total = weighted.sum() + sum(terms.values(), start=weighted.new_zeros(()))
    run.fabric.backward(total * run.processes.count)  # the gradients of processes are averaged
    for name, term in terms.items():
        tally.terms[name] = tally.terms.get(name, 0.0) + float(term.detach())
    tally.add(weighted, scored, losses)


def _backward_nothing(run: Run, micro: MicroBatch, found: Tensor | None) -> None:
    """Gradients of zero, from a process that has no row: the others wait for its part of the sum.

    Args:
        run: in progress.
        micro: any micro-batch of the update; nothing of it counts.
        found: what the survey of the update found.
    """
    weighted, _, _ = forward(run, micro.on(run.fabric.to_device), found)
    run.fabric.backward(0.0 * weighted.sum())


def _backward_terms(run: Run, terms: Mapping[str, Tensor], tally: Tally) -> None:
    for name, term in terms.items():
        run.fabric.backward(term)
        tally.terms[name] = float(term.detach())


def _descend(run: Run, rate: float, loss: float) -> tuple[float, bool]:
    """Clip and apply the gradients where they are finite.

    Returns:
        The gradient's norm before clipping, and whether the weights moved.
    """
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]
    norm = run.fabric.clip_gradients(
        run.module, run.optimizer, max_norm=run.settings.max_grad_norm, error_if_nonfinite=False
    )
    is_finite = math.isfinite(loss) and bool(torch.isfinite(norm))
    if is_finite:
        run.optimizer.step()
    run.optimizer.zero_grad()
    return float(norm), is_finite
