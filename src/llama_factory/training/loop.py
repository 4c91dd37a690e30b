"""The training loop: new rows and old ones through the model, from the last checkpoint to the end.

Lightning Fabric carries devices and precision; what one update does is in update.py.
"""

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from llama_factory.core.errors import ConfigError, FactoryError
from llama_factory.core.files import reporting_full_disk
from llama_factory.core.progress import Bar, Progress
from llama_factory.core.signals import Stopped, stopping_safely
from llama_factory.core.types import Example
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.compiling import compile_layers
from llama_factory.training import checkpoints, diverging, memory
from llama_factory.training import held_out as held
from llama_factory.training.batching import Batch
from llama_factory.training.checkpoints import Position
from llama_factory.training.costs import Costs
from llama_factory.training.ending import ends_of
from llama_factory.training.identity import Description, describe, differences, name_of
from llama_factory.training.items import Items
from llama_factory.training.length import Plan, plan_run
from llama_factory.training.monitor import (
    Monitor,
    Progressed,
    TrainingFolders,
    earlier,
    monitored,
)
from llama_factory.training.outcome import TrainedModel
from llama_factory.training.parallel import precision
from llama_factory.training.planning import NEW, RowRef, mix
from llama_factory.training.rates import learning_rate_at
from llama_factory.training.reference import with_reference
from llama_factory.training.rows import MOST_SHOWN, Encoding, Rows, UnfitRow, encode_all
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.spikes import SpikeWatch
from llama_factory.training.strategy import Protection
from llama_factory.training.update import Run, Update, start, update
from llama_factory.training.utilisation import device_utilisation

__all__ = ["Protection", "TrainedModel", "TrainingFolders", "UnfitRow", "train"]

MOST_BAD_UPDATES = 3
"""Updates in a row without a finite loss before the run stops."""


@dataclass(frozen=True)
class _Job:
    """What a run is to do.

    Attributes:
        plan: the rows of every update.
        rows: of every source.
        description: what the updates depend on.
        tests: the held-out rows, where their loss is measured.
        folders: where it writes.
        progress: what it tells people.
    """

    plan: Plan
    rows: Rows
    description: Description
    tests: Batch | None
    folders: TrainingFolders
    progress: Progress

    @property
    def name(self) -> str:
        """Identifies the run; a checkpoint belongs to one."""
        return name_of(self.description)


@dataclass
class _Watch:
    """What looks on while a run goes on."""

    monitor: Monitor
    bar: Bar
    spikes: SpikeWatch
    num_bad_in_a_row: int = 0


def train(  # noqa: PLR0913 - the whole job in one call, all but two by name
    model: AdaptedModel,
    examples: Sequence[Example],
    settings: TrainingSettings,
    protection: Protection,
    *,
    folders: TrainingFolders,
    progress: Progress,
    held_out: Sequence[Example] = (),
) -> TrainedModel:
    """Teach the rows to the model; an interrupted run goes on from its last checkpoint.

    Args:
        model: its adapter is trained in place.
        examples: the new rows.
        settings: length, rate, batch.
        protection: strategies, and the parent version's memory.
        folders: where checkpoints and logs go.
        progress: shows steps, tokens/s and the time left.
        held_out: for the loss that `eval_steps` asks for and early stopping goes by.

    Raises:
        ConfigError: this machine lacks what a setting asks for.
        DataError: no row is left to train on.
        FactoryError: the loss stays infinite, or the longest micro-batch does not fit.
        VersionError: the disk is full, or another process trains into the same folder.
    """
    settings.check()
    progress.say(f"Precision: {model.precision}.")
    settings.objective.prepare(model)
    costs = Costs()
    _prepare_strategies(model, protection, costs)
    run = start(model, settings, protection, costs)
    encoding = Encoding(model, settings, folders.tokens)
    with run.processes.in_turn():
        rows = encode_all(encoding, examples, protection, progress)
        tests = held.gather(run, held_out, encoding)
    plan = plan_run(rows, settings)
    with run.prefix.on():
        for text in memory.look_ahead(run, plan, rows):
            progress.say(text)
    if settings.compile:
        compile_layers(model.network)
    with reporting_full_disk(folders.checkpoints, what="training"), run.prefix.on():
        job = _prepare(run, _Job(plan, rows, describe(run, rows), None, folders, progress), tests)
        position = _follow(run, job)
        measured = held.measure(run, job.tests) if job.tests else {}
    ends = ends_of(run, examples)
    kept = ends[0].reach()
    model.network.eval()
    ended_by = _ended_by(position, settings)
    unfit, cut, spent = rows.unfit[NEW], rows.items[NEW].rows.cut, run.costs.seconds
    divergence = _divergence(run, job, position)
    return TrainedModel(
        model, kept, position, ended_by, unfit, cut, measured, ends, spent, divergence
    )


def _divergence(run: Run, job: _Job, position: Position) -> str:
    """Tell of a run that ended far above its beginning, unless its best weights were put back."""
    is_put_back = run.settings.early_stopping_steps and position.best_step
    if is_put_back or not run.processes.is_first:
        return ""
    if found := diverging.told(earlier(job.folders.metrics, position.step)):
        job.progress.say(f"Warning: {found}")
    return found


def _prepare_strategies(model: AdaptedModel, protection: Protection, costs: Costs) -> None:
    """All see the parent's weights before any of them moves these."""
    for strategy in protection.strategies:
        with costs.of(strategy):
            strategy.prepare(model, protection.memory)
    for strategy in protection.strategies:
        with costs.of(strategy):
            strategy.begin(model, protection.memory)


def _prepare(run: Run, job: _Job, tests: Items | None) -> _Job:
    """The job with what the reference makes of its rows, and with its held-out rows."""
    items = {**job.rows.items, **({held.SOURCE: tests} if tests else {})}
    refs = {ref for step in job.plan for ref in step}
    refs |= {RowRef(held.SOURCE, index) for index in range(len(tests or ()))}
    known = with_reference(
        run,
        items,
        refs,
        folder=job.folders.checkpoints,
        plan=job.name,
        progress=job.progress,
    )
    measured = known.pop(held.SOURCE, None)
    batch = held.as_batch(run, measured) if measured else None
    return replace(job, rows=replace(job.rows, items=known), tests=batch)


def _resume(run: Run, job: _Job) -> Position:
    """Where the last checkpoint of this very run stands, its state put back; or the start."""
    found = _found(job)
    if found is None:
        if run.processes.is_first:
            _begin(job)
        return Position(job.name)
    checkpoint, position = found
    weights, optimizer = run.model.trainable(), run.optimizer.optimizer
    tensors, scale = checkpoints.restore(checkpoint, weights, optimizer)
    precision.restore_scale(run.fabric, scale)
    kept = replace(run.protection.memory, tensors=tensors)
    run.protection = replace(run.protection, memory=kept)
    run.costs.go_on(position.hook_seconds)
    job.progress.say(f"Going on after step {position.step} of {len(job.plan)} ({checkpoint.name}).")
    return position


def _found(job: _Job) -> tuple[Path, Position] | None:
    """The checkpoint to go on from: that which was named, or the newest one of this run.

    Raises:
        ConfigError: one is asked for, and there is none of this run.
    """
    asked = job.folders.resume
    if asked is False:
        return None
    folder = asked if isinstance(asked, Path) else job.folders.checkpoints
    found = checkpoints.latest(folder, job.name)
    if found is None and asked is not None:
        raise ConfigError(checkpoints.why_not(folder, job.description))
    return found


def _begin(job: _Job) -> None:
    """Put checkpoints of another run aside, and say in what it differs."""
    folder = job.folders.checkpoints
    before = checkpoints.put_aside(folder)
    if before is not None and job.folders.resume is False:
        job.progress.say(
            f"Begun anew, as resume_from_checkpoint is false. The checkpoints in {folder} are kept "
            f"in {folder.name}.replaced."
        )
    elif before is not None:
        changed = ", ".join(differences(before, job.description)) or "they are damaged"
        job.progress.say(
            f"Begun anew: the checkpoints in {folder} are of another run. Changed since: {changed}."
            f" They are kept in {folder.name}.replaced; to go on with them, undo the change."
        )
    checkpoints.describe(folder, job.description)


def _follow(run: Run, job: _Job) -> Position:
    """All updates of the plan from the last checkpoint on."""
    position, num_steps, settings = _resume(run, job), len(job.plan), run.settings
    norms = [row["gradient_norm"] for row in earlier(job.folders.metrics, position.step)]
    norms = [norm for norm in norms if math.isfinite(norm)]
    with contextlib.ExitStack() as stack:
        monitor = stack.enter_context(_monitor(run, job, position))
        bar = stack.enter_context(job.progress.bar("training", num_steps, position.step))
        is_asked_to_stop = stack.enter_context(stopping_safely())
        watch = _Watch(monitor, bar, SpikeWatch(settings.spike_factor, norms))
        while position.step < num_steps and not _ended_by(position, settings):
            position = _step(run, job, position, watch)
            is_last = position.step == num_steps or bool(_ended_by(position, settings))
            is_due = position.step % settings.checkpoint_steps == 0
            signal = max(run.processes.gathered(is_asked_to_stop()))
            if run.processes.is_first and (is_due or is_last or signal):
                _save(run, position, job.folders)
            if signal:
                raise Stopped(signal)
    run.processes.wait()
    if settings.early_stopping_steps and position.best_step:
        held.put_back(run.model.trainable(), job.folders.checkpoints / held.BEST)
    return position


@contextlib.contextmanager
def _monitor(run: Run, job: _Job, position: Position) -> Iterator[Monitor]:
    """The logs of a run, which the first process writes."""
    if run.processes.is_first:
        with monitored(job.folders, run.settings.report_to, done=position.step) as monitor:
            yield monitor
    else:
        with Path(os.devnull).open("w") as nowhere:
            yield Monitor(nowhere, nowhere, ())


def _ended_by(position: Position, settings: TrainingSettings) -> str:
    """The setting that ends the run here before its plan does, or nothing."""
    if settings.max_minutes is not None and position.seconds >= 60 * settings.max_minutes:
        return "max_minutes"
    patience = settings.early_stopping_steps
    return "early_stopping_steps" if patience and position.num_worse >= patience else ""


def _save(run: Run, position: Position, folders: TrainingFolders) -> None:
    checkpoints.save(
        folders.checkpoints,
        position,
        run.model.trainable(),
        run.optimizer.optimizer,
        run.protection.memory.tensors,
        scale=precision.scale_state(run.fabric),
    )


def _step(run: Run, job: _Job, position: Position, watch: _Watch) -> Position:
    """The next update, and all that is told and kept of it."""
    started = time.perf_counter()
    refs = job.plan[position.step]
    rate = learning_rate_at(position.step, len(job.plan), run.settings)
    batch, made = _update(run, job, position.step, rate)
    seconds, *_ = run.processes.gathered(time.perf_counter() - started)
    position = replace(
        position,
        step=position.step + 1,
        num_tokens=position.num_tokens + batch.num_tokens,
        seconds=position.seconds + seconds,
        loss=made.numbers["loss"],
        hook_seconds=dict(run.costs.seconds),
    )
    position = _look_at(made, refs, job, position, watch)
    position, measured = _measure(run, job, position)
    told = {
        "learning_rate": rate,
        "tokens_per_second": batch.num_tokens / seconds,
        "samples_per_second": len(refs) / seconds,
        "padding_fraction": 1 - batch.num_tokens / batch.num_padded,
        **memory.memory_in_use(run.model.device),
        **device_utilisation(run.model.device),
    }
    watch.monitor.record(_progressed(position, job, run.settings), made.numbers | measured | told)
    speed = position.num_tokens / position.seconds
    watch.bar.advance(1, f"loss {position.loss:.3f}  {speed:.0f} tok/s")
    return position


def _update(run: Run, job: _Job, step: int, rate: float) -> tuple[Batch, Update]:
    """One update; where memory runs out, the same one again in smaller micro-batches."""
    while True:
        batch = memory.make(run, job.plan[step], job.rows)
        # for dropout, so that a resumed run draws what it would have drawn
        rank = (run.processes.rank,) if run.processes.rank else ()
        torch.manual_seed(mix(run.settings.seed, "step", step, *rank))
        try:
            return batch, update(run, batch, rate)
        except RuntimeError as error:
            if not memory.is_out_of_memory(error) or not memory.halve(run, batch):
                raise
            job.progress.say(
                f"Out of memory at step {step + 1}: going on with micro-batches of "
                f"{run.max_tokens} tokens. The results stay the same."
            )


def _look_at(
    made: Update, refs: Sequence[RowRef], job: _Job, position: Position, watch: _Watch
) -> Position:
    """Tell of updates that were skipped and of gradients that stick out, and count them.

    Raises:
        FactoryError: too many updates in a row were not finite.
    """
    norm = made.numbers["gradient_norm"]
    if made.is_applied:
        watch.num_bad_in_a_row = 0
        times = watch.spikes.see(norm)
        if times is None:
            return position
        say = f"Step {position.step}: the gradient norm {norm:.3g} is {times:.0f} times the usual."
        job.progress.say(f"{say} Rows: {_named(job.rows.places(refs))}.")
        return replace(position, num_spikes=position.num_spikes + 1)
    watch.num_bad_in_a_row += 1
    rows = _named(job.rows.places(refs))
    if watch.num_bad_in_a_row >= MOST_BAD_UPDATES:
        raise FactoryError(
            f"The loss was not a finite number in {watch.num_bad_in_a_row} updates in a row (last: "
            f"{position.loss}; its rows: {rows}). Lower training.learning_rate, or look for odd "
            "rows; nothing was saved."
        )
    job.progress.say(
        f"Step {position.step} is skipped: loss {position.loss}, gradient norm {norm}. Its rows: "
        f"{rows}."
    )
    return replace(position, num_skipped=position.num_skipped + 1)


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - MOST_SHOWN} more" if len(places) > MOST_SHOWN else ""
    return ", ".join(places[:MOST_SHOWN]) + more


def _measure(run: Run, job: _Job, position: Position) -> tuple[Position, dict[str, float]]:
    """The held-out loss, where it is due at this step."""
    every = run.settings.eval_steps
    if job.tests is None or every is None or position.step % every:
        return position, {}
    measured = held.measure(run, job.tests)
    best = job.folders.checkpoints / held.BEST
    position = held.judge(run, position, measured["loss"], best)
    return position, {f"eval_{name}": value for name, value in measured.items()}


def _progressed(position: Position, job: _Job, settings: TrainingSettings) -> Progressed:
    return Progressed(
        position.step,
        len(job.plan),
        settings.batch_size / job.rows.sizes[NEW],
        position.seconds,
        position.num_tokens,
    )
