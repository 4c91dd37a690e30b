"""The training loop: new rows and old ones through the model, from the last checkpoint to the end.

Lightning Fabric carries devices and precision; what one update does is in update.py.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from llama_factory.core.errors import FactoryError
from llama_factory.core.files import reporting_full_disk
from llama_factory.core.progress import Bar, Progress
from llama_factory.core.signals import Stopped, stopping_safely
from llama_factory.core.types import Example
from llama_factory.model.acceleration import compile_layers
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.sharding import is_part
from llama_factory.training import checkpoints, device_memory
from llama_factory.training.batch import Batch, Prefetch, make_batch
from llama_factory.training.checkpoints import Position, describe_run, name_of
from llama_factory.training.frozen_trunk import keeping
from llama_factory.training.held_out import (
    SOURCE,
    encode_held_out,
    held_out_batch,
    keep_best,
    measure,
    restore_best,
)
from llama_factory.training.items import (
    MOST_SHOWN,
    NEW,
    Encoding,
    Items,
    RowRef,
    Rows,
    UnfitRow,
    encode_all,
)
from llama_factory.training.loss_scale import scale_state
from llama_factory.training.mirror import Mirror, mirrored
from llama_factory.training.monitor import (
    Monitor,
    Progressed,
    SpikeWatch,
    TrainingFolders,
    divergence,
    monitored,
    read_metrics,
)
from llama_factory.training.outcome import TrainedModel, ends_of
from llama_factory.training.plan import Plan, derive_seed, every, learning_rate_at, plan_run
from llama_factory.training.reference_log_probs import with_reference
from llama_factory.training.saving import CheckpointState, CheckpointWriter, save, state_of
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.setup import Run, start
from llama_factory.training.strategy import Protection
from llama_factory.training.update import UpdateResult, update

__all__ = ["Protection", "TrainedModel", "TrainingFolders", "UnfitRow", "train"]

MOST_BAD_UPDATES = 3
"""Updates in a row without a finite loss before the run stops."""

NOT_LOADABLE = (
    "training.loadable_checkpoints: such folders are not written while processes share what trains "
    "(fsdp). The run goes on from its own checkpoints all the same, and its result is written at "
    "the end."
)
"""Said at the beginning of a run that asks for them."""


def train(  # noqa: PLR0913 - the whole job in one call, all but two by name
    model: AdaptedModel,
    examples: Sequence[Example],
    settings: TrainingSettings,
    protection: Protection,
    *,
    folders: TrainingFolders,
    progress: Progress,
    held_out: Sequence[Example] = (),
    on_checkpoint: Callable[[Position], None] | None = None,
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
        on_checkpoint: told after each checkpoint, in the first process.

    Raises:
        ConfigError: this machine lacks what a setting asks for.
        DataError: no row is left to train on.
        FactoryError: the loss stays infinite, or the longest micro-batch does not fit.
        VersionError: the disk is full, or another process trains into the same folder.
    """
    settings.check()
    progress.say(f"Precision: {model.precision}.")
    run = start(model, settings, protection)
    if settings.loadable_checkpoints and _trains_parts(run):
        progress.say(NOT_LOADABLE)
    encoding = Encoding(model, settings, folders.tokens)
    with run.processes.in_turn():
        rows = encode_all(encoding, examples, protection, progress)
        tests = encode_held_out(run, held_out, encoding)
    plan = plan_run(rows, settings)
    with run.reading():
        for sentence in device_memory.look_ahead(run, plan, rows):
            progress.say(sentence)
    if settings.compile:
        compile_layers(model.network)
    with (
        reporting_full_disk(folders.checkpoints, what="training"),
        run.reading(),
        keeping(run, plan, rows, folders, progress),
    ):
        fit = _Fit(run, plan, rows, folders, progress, on_checkpoint)
        fit.add_reference(tests)
        fit.to_the_end()
        measured = measure(run, fit.tests) if fit.tests else {}
    return _result(fit, examples, measured)


class _Fit:
    """The updates of a run, from where it stands to its end.

    Args:
        run: prepared.
        plan: the rows of every update.
        rows: of every source.
        folders: where it writes.
        progress: what people see of it.
        on_checkpoint: told after each checkpoint.
    """

    mirror: Mirror
    writer: CheckpointWriter
    monitor: Monitor
    bar: Bar
    batches: Prefetch
    spikes: SpikeWatch

    def __init__(
        self,
        run: Run,
        plan: Plan,
        rows: Rows,
        folders: TrainingFolders,
        progress: Progress,
        on_checkpoint: Callable[[Position], None] | None = None,
    ) -> None:
        self.run = run
        self.plan = plan
        self.rows = rows
        self.folders = folders
        self.progress = progress
        self.on_checkpoint = on_checkpoint
        self.description = describe_run(run, rows)
        self.position = Position(name_of(self.description))
        self.tests: Batch | None = None
        self.num_bad_in_a_row = 0
        self.saved_at = time.monotonic()
        self.copy: CheckpointState | None = None

    def add_reference(self, tests: Items | None) -> None:
        """Compute what the reference model makes of all rows, held-out ones too, where needed."""
        items = {**self.rows.items, **({SOURCE: tests} if tests else {})}
        refs = {ref for step in self.plan for ref in step}
        refs |= {RowRef(SOURCE, index) for index in range(len(tests or ()))}
        known = with_reference(
            self.run,
            items,
            refs,
            folder=self.folders.checkpoints,
            plan=self.position.plan,
            progress=self.progress,
        )
        measured = known.pop(SOURCE, None)
        self.rows = replace(self.rows, items=known)
        self.tests = held_out_batch(self.run, measured) if measured else None

    def to_the_end(self) -> None:
        """Make all updates of the plan, from the last checkpoint on."""
        run, num_steps = self.run, len(self.plan)
        with contextlib.ExitStack() as stack:
            self.mirror = stack.enter_context(self._mirror())
            self.writer = stack.enter_context(CheckpointWriter())
            self.position = checkpoints.resume(
                run, self.folders, self.description, num_steps, self.progress
            )
            self._open(stack)
            is_asked_to_stop = stack.enter_context(stopping_safely())
            while not self._is_over():
                self._step()
                asked = run.processes.gather((is_asked_to_stop(), self._is_due()))
                signal = max(signal for signal, _ in asked)
                if asked[0][1] or signal or self._is_over():
                    self._save()
                if signal:
                    self.writer.wait()
                    raise Stopped(signal)
            self.writer.wait()
        run.processes.wait()
        if run.settings.restores_best and self.position.best_step:
            restore_best(run, self.folders.checkpoints)

    @contextlib.contextmanager
    def _mirror(self) -> Iterator[Mirror]:
        """The copies of this run elsewhere; an empty disk gets the newest of them."""
        name, folder = self.position.plan, self.folders.checkpoints
        processes, address = self.run.processes, self.run.settings.checkpoint_mirror
        with mirrored(address, name, self.progress) as mirror:
            with processes.in_turn():
                if self.folders.resume is None and checkpoints.latest(folder, name) is None:
                    mirror.fetch(folder)
            yield mirror

    def _is_due(self) -> bool:
        """Whether a checkpoint is, by the number of updates or by the time."""
        settings = self.run.settings
        minutes = (time.monotonic() - self.saved_at) / 60
        is_late = settings.checkpoint_minutes is not None and minutes >= settings.checkpoint_minutes
        return is_late or self.position.step % self._every(settings.checkpoint_steps) == 0

    def _every(self, often: int | float | str) -> int:
        """How many updates lie between two of something."""
        epochs = len(self.plan) * self.run.settings.batch_size / max(1, self.rows.sizes[NEW])
        return every(often, len(self.plan), epochs)

    def _open(self, stack: contextlib.ExitStack) -> None:
        """Open what writes, shows and prepares while the updates are made."""
        done, num_steps, settings = self.position.step, len(self.plan), self.run.settings
        norms = [row["gradient_norm"] for row in read_metrics(self.folders.metrics, done)]
        self.spikes = SpikeWatch(settings.spike_factor, filter(math.isfinite, norms))
        self.monitor = stack.enter_context(self._monitor())
        self.bar = stack.enter_context(self.progress.bar("training", num_steps, done))
        self.batches = stack.enter_context(Prefetch(self._batch, num_steps))

    @contextlib.contextmanager
    def _monitor(self) -> Iterator[Monitor]:
        """The logs of a run, which the first process writes."""
        if self.run.processes.is_first:
            reporters = self.run.settings.report_to
            with monitored(self.folders, reporters, done=self.position.step) as monitor:
                yield monitor
        else:
            with Path(os.devnull).open("w") as nowhere:
                yield Monitor(nowhere, nowhere, ())

    def _is_over(self) -> bool:
        ended_by = _ended_by(self.position, self.run.settings)
        return self.position.step >= len(self.plan) or bool(ended_by)

    def _save(self) -> None:
        """Begin to write a checkpoint; updates go on meanwhile, where there is room for a copy."""
        run = self.run
        if not (run.processes.is_first or run.settings.parallel.shards):
            return
        position = replace(self.position, counts=run.counts(), kept=run.kept)
        scale = scale_state(run.fabric)
        state = state_of(position, run.model.trainable(), run.optimizer.optimizer, scale)
        self.saved_at = time.monotonic()
        self.writer.wait()
        if run.settings.parallel.shards or not (
            self.copy or device_memory.holds_copy(state.num_bytes)
        ):
            self._write(state)
        else:
            self.copy = copied = state.copied(self.copy)
            self.writer.begin(lambda: self._write(copied))
        if self.on_checkpoint is not None and run.processes.is_first and not _trains_parts(run):
            self.writer.wait()
            self.on_checkpoint(self.position)

    def _write(self, state: CheckpointState) -> None:
        run = self.run
        saved = save(
            self.folders.checkpoints,
            state,
            most=run.settings.checkpoints_kept,
            writes=run.processes.is_first,
        )
        if run.processes.is_first:
            self.mirror.send(saved)

    def _step(self) -> None:
        """The next update, and all that is logged and kept of it."""
        self.writer.check()
        started, before = time.perf_counter(), self.position
        refs, run = self.plan[before.step], self.run
        rate = learning_rate_at(before.step, len(self.plan), run.settings)
        batch, result = self._update(before.step, rate)
        seconds, *_ = run.processes.gather(time.perf_counter() - started)
        self.position = replace(
            before,
            step=before.step + 1,
            num_tokens=before.num_tokens + batch.num_tokens,
            seconds=before.seconds + seconds,
            loss=result.numbers["loss"],
            hook_seconds=dict(run.costs.seconds),
        )
        self._watch(result, refs)
        numbers = {
            **result.numbers,
            **self._measure(),
            "learning_rate": rate,
            "tokens_per_second": batch.num_tokens / seconds,
            "samples_per_second": len(refs) / seconds,
            "padding_fraction": 1 - batch.num_tokens / batch.num_padded,
            **device_memory.memory_in_use(run.model.device),
            **device_memory.device_utilisation(run.model.device),
        }
        self.monitor.record(self._progressed(), numbers)
        speed = self.position.num_tokens / self.position.seconds
        self.bar.advance(1, f"loss {self.position.loss:.3f}  {speed:.0f} tok/s")

    def _batch(self, step: int) -> Batch:
        options = self.run.batch_options(self.rows.weights)
        batch = make_batch(self.plan[step], self.rows.items, options)
        if self.run.row_states is not None:
            self.run.row_states.load(step, batch)
        return batch

    def _update(self, step: int, rate: float) -> tuple[Batch, UpdateResult]:
        """One update; where memory runs out, the same one again in smaller micro-batches."""
        run = self.run
        while True:
            batch = self.batches.take(step)
            if run.row_states is not None:
                run.row_states.begin(step)
            # for dropout, so that a resumed run draws what it would have drawn
            rank = (run.processes.rank,) if run.processes.rank else ()
            torch.manual_seed(derive_seed(run.settings.seed, "step", step, *rank))
            try:
                return batch, update(run, batch, rate)
            except RuntimeError as error:
                is_memory = device_memory.is_out_of_memory(error)
                if not is_memory or not device_memory.halve(run, batch):
                    raise
                self.batches.drop()
                self.progress.say(
                    f"Out of memory at step {step + 1}: going on with micro-batches of "
                    f"{run.max_tokens} tokens. The results stay the same."
                )

    def _watch(self, result: UpdateResult, refs: Sequence[RowRef]) -> None:
        """Warn of skipped updates and of gradient spikes, and count them."""
        norm, position = result.numbers["gradient_norm"], self.position
        if not result.is_applied:
            self._skip(norm, _named(self.rows.places(refs)))
            return
        self.num_bad_in_a_row = 0
        times = self.spikes.see(norm)
        if times is not None:
            self.progress.say(
                f"Step {position.step}: the gradient norm {norm:.3g} is {times:.0f} times the "
                f"usual. Rows: {_named(self.rows.places(refs))}."
            )
            self.position = replace(position, num_spikes=position.num_spikes + 1)

    def _skip(self, norm: float, rows: str) -> None:
        """Count an update that was skipped.

        Raises:
            FactoryError: too many in a row.
        """
        position = self.position
        self.num_bad_in_a_row += 1
        if self.num_bad_in_a_row >= MOST_BAD_UPDATES:
            raise FactoryError(
                f"The loss was not a finite number in {self.num_bad_in_a_row} updates in a row "
                f"(last: {position.loss}; its rows: {rows}). Lower training.learning_rate, or look "
                "for odd rows; nothing was saved."
            )
        self.progress.say(
            f"Step {position.step} is skipped: loss {position.loss}, gradient norm {norm}. Its "
            f"rows: {rows}."
        )
        self.position = replace(position, num_skipped=position.num_skipped + 1)

    def _measure(self) -> dict[str, float]:
        """The held-out loss, where it is due at this step."""
        often = self.run.settings.eval_steps
        if self.tests is None or often is None or self.position.step % self._every(often):
            return {}
        measured = measure(self.run, self.tests)
        best = self.folders.checkpoints
        self.position = keep_best(self.run, self.position, measured["loss"], best)
        return {f"eval_{name}": value for name, value in measured.items()}

    def _progressed(self) -> Progressed:
        return Progressed(
            self.position.step,
            len(self.plan),
            self.run.settings.batch_size / self.rows.sizes[NEW],
            self.position.seconds,
            self.position.num_tokens,
        )


def _ended_by(position: Position, settings: TrainingSettings) -> str:
    """The setting that ends the run here before its plan does, or nothing."""
    if settings.max_minutes is not None and position.seconds >= 60 * settings.max_minutes:
        return "max_minutes"
    patience = settings.early_stopping_steps
    return "early_stopping_steps" if patience and position.num_worse >= patience else ""


def _trains_parts(run: Run) -> bool:
    """Whether no process has the whole of what trains, as another program's folder needs it."""
    return any(map(is_part, run.model.trainable().values()))


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - MOST_SHOWN} more" if len(places) > MOST_SHOWN else ""
    return ", ".join(places[:MOST_SHOWN]) + more


def _result(fit: _Fit, examples: Sequence[Example], measured: dict[str, float]) -> TrainedModel:
    """What the strategies keep of the finished run, and what is reported of it."""
    run = fit.run
    run.make_whole()
    ends = ends_of(run, examples)
    memory = ends[0].reach()
    run.model.network.eval()
    return TrainedModel(
        run.model,
        memory,
        fit.position,
        _ended_by(fit.position, run.settings),
        fit.rows.unfit[NEW],
        fit.rows.items[NEW].rows.cut,
        measured,
        ends,
        run.costs.seconds,
        _divergence(fit),
    )


def _divergence(fit: _Fit) -> str:
    """Warn of a run that ended far above its beginning, unless its best weights were restored."""
    run, position = fit.run, fit.position
    is_restored = run.settings.restores_best and position.best_step
    if is_restored or not run.processes.is_first:
        return ""
    if warning := divergence(read_metrics(fit.folders.metrics, position.step)):
        fit.progress.say(f"Warning: {warning}")
    return warning
