"""A single run without a workspace: the same engine, a plain PEFT folder as output."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llama_factory.continual.encoding import encode_options
from llama_factory.core import files
from llama_factory.core.errors import DataError, FactoryError
from llama_factory.core.progress import SILENT, Progress
from llama_factory.core.types import EvalReport, Example, tasks_by_group
from llama_factory.data.prepare import DataFolders, PreparedData, load, prepare
from llama_factory.data.seen import Seen
from llama_factory.data.sources.gather import gather, has_tests
from llama_factory.evaluation import intervals
from llama_factory.evaluation.suite import evaluate
from llama_factory.jobs import outputs
from llama_factory.jobs.predict import predict_rows, require_answerable
from llama_factory.jobs.starting import start_of
from llama_factory.model.load import AdaptedModel, adapt
from llama_factory.rounds.settings import RoundConfig
from llama_factory.training import checkpoints
from llama_factory.training.fitting import require_fitting
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.training.parallel.processes import Processes, joined

CHECKPOINTS = "checkpoints"
ROWS = ".data"
"""The rows while they are trained on; removed with the last write."""


@dataclass(frozen=True)
class Extras:
    """What a single run does besides.

    Attributes:
        log_dir: of TensorBoard; None for a folder in the output.
        do_predict: answer all held-out rows at the end and keep the answers.
        overwrites: a finished run in the output is replaced, once this one is whole.
        resume: what it goes on from, see `TrainingFolders`.
        draw_loss: draws the rows of metrics.jsonl into a file.
    """

    log_dir: Path | None = None
    do_predict: bool = False
    overwrites: bool = False
    resume: Path | bool | None = None
    draw_loss: Callable[[Sequence[Mapping[str, Any]], Path], None] | None = None


def fit(
    config: RoundConfig, output: Path, progress: Progress, extras: Extras = Extras()
) -> dict[str, Any]:
    """Train on `data.train_path` and write adapter, tokenizer, logs and scores to `output`.

    An interrupted run goes on from its last checkpoint.

    Returns:
        What all_results.json holds; nothing in a process that is not the first of several.

    Raises:
        FactoryError: the message says what is wrong.
    """
    with joined(timeout=config.training.process_timeout) as processes:
        if not processes.is_first:
            progress = SILENT
        with processes.in_turn():
            folder = _place(output, extras, progress, is_first=processes.is_first)
        extras = replace(extras, resume=_resume(extras.resume, output, folder))
        try:
            results = _prepare_and_fit(config, folder, progress, extras, processes)
        except FactoryError:
            if processes.is_first:
                outputs.give_up(folder, output)
            raise
        if processes.is_first:
            outputs.finish(folder, output)
        return results


def _prepare_and_fit(
    config: RoundConfig,
    output: Path,
    progress: Progress,
    extras: Extras,
    processes: Processes,
) -> dict[str, Any]:
    checkpoints.require_some(output / CHECKPOINTS, extras.resume)
    with processes.in_turn():
        data = _data(config, output, progress, is_first=processes.is_first)
    if extras.do_predict:
        require_answerable(data.held_out, config)
    job = _Job(config, output, data, extras, progress)
    return _fit(job, is_first=processes.is_first)


@dataclass(frozen=True)
class _Job:
    """A single run: settings, where it writes, its rows, what it does besides."""

    config: RoundConfig
    output: Path
    data: PreparedData
    extras: Extras
    progress: Progress


def _resume(asked: Path | bool | None, output: Path, folder: Path) -> Path | bool | None:
    """What to go on from. A run's own folder may be named before there is anything in it."""
    own = folder / CHECKPOINTS
    names = {output.resolve(), (output / CHECKPOINTS).resolve()}
    if not isinstance(asked, Path) or asked.expanduser().resolve() not in names:
        return asked
    return own if any(own.glob("step-*")) else None


def _place(output: Path, extras: Extras, progress: Progress, *, is_first: bool) -> Path:
    """Where the run writes until it is whole, which the first of several processes makes."""
    if is_first:
        return outputs.begin(output, replaces=extras.overwrites, progress=progress)
    return outputs.place(output, replaces=extras.overwrites)


def _data(config: RoundConfig, output: Path, progress: Progress, *, is_first: bool) -> PreparedData:
    """The rows, which the first of several processes prepares."""
    if not is_first:
        return load(output / ROWS)
    data = _read(config, output, progress)
    require_fitting(config.training.objective, data.train)
    return data


def _fit(job: _Job, *, is_first: bool) -> dict[str, Any]:
    config, data = job.config, job.data
    options, seed = encode_options(config.data), config.training.seed
    start = start_of(config.model)
    model = adapt(start.settings, start.parent, options=options, seed=seed, merged=start.merged)
    answered = data.held_out if is_first and config.training.objective.teaches_answers else ()
    before = _score(model, answered, config, "testing the base model", job.progress)
    trained = train(
        model,
        data.train,
        config.training,
        Protection(tuple(config.strategies)),
        folders=_folders(job),
        progress=job.progress,
        held_out=data.held_out,
    )
    if not is_first:
        return {}
    after = _score(model, answered, config, "testing the trained model", job.progress)
    results = {"training": trained.to_json(), "before": before, "after": after}
    if job.extras.do_predict:
        predict_rows(model, data.held_out, config, job.output, progress=job.progress)
    return _write(trained, data, results, job)


def _folders(job: _Job) -> TrainingFolders:
    return TrainingFolders(
        checkpoints=job.output / CHECKPOINTS,
        metrics=job.output / "metrics.jsonl",
        events=job.extras.log_dir or job.output / "runs",
        tokens=files.cache_folder() / "tokens",
        resume=job.extras.resume,
    )


def _read(config: RoundConfig, output: Path, progress: Progress) -> PreparedData:
    settings = config.data
    sources = gather(settings)
    if has_tests(settings):
        settings = settings.model_copy(update={"held_out_fraction": 0.0})
    folders = DataFolders(output / ROWS, files.cache_folder() / "data")
    data = prepare(sources, Seen(), settings, folders, progress=progress)
    for refused in data.report.refused:
        progress.say(f"Left out: {refused}")
    for told in data.report.told_unread:
        progress.say(f"Unread: {told}")
    for reason, count in data.report.dropped.items():
        progress.say(f"Dropped: {count} rows, {reason}.")
    if not len(data.train):
        named = settings.train_path or ", ".join(settings.dataset)
        raise DataError(f"data.train_path: {named} holds no usable row.")
    return data


def _score(
    model: AdaptedModel,
    rows: tuple[Example, ...],
    config: RoundConfig,
    title: str,
    progress: Progress,
) -> dict[str, Any]:
    if not len(rows):
        return EvalReport({}, None, 0.0).to_json()
    tasks = tasks_by_group("eval", rows)
    report, answers = evaluate(model, tasks, config.evaluation, title=title, progress=progress)
    return report.to_json() | {"intervals": intervals.to_json(intervals.of_predictions(answers))}


def _write(
    trained: TrainedModel, data: PreparedData, results: dict[str, Any], job: _Job
) -> dict[str, Any]:
    output = job.output
    trained.model.tokenizer.save_pretrained(output)
    if job.extras.draw_loss is not None:
        rows = list(files.read_jsonl(output / "metrics.jsonl"))
        job.extras.draw_loss(rows, output / "training_loss.png")
    results = results | {"data": data.report.to_json()}
    files.write_json(output / outputs.RESULTS, results)
    shutil.rmtree(output / ROWS)
    outputs.save(trained.model, output)  # last: a folder with weights is complete
    return results
