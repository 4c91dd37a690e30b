"""A single run without a workspace: the same engine, a plain PEFT folder as output."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import DataError, FactoryError, ModelError
from llama_factory.core.progress import SILENT, Progress
from llama_factory.core.types import EvalReport, Example, tasks_by_group
from llama_factory.data.prepare import DataFolders, PreparedData, load, prepare
from llama_factory.data.sources.named import gather, has_tests
from llama_factory.evaluation.evaluator import evaluate
from llama_factory.evaluation.scoring import intervals_to_json, score_intervals
from llama_factory.jobs import model_card, outputs, trainer_files
from llama_factory.jobs.loadable import LoadableCheckpoints
from llama_factory.jobs.predict import predict_rows, require_answerable
from llama_factory.model import provenance
from llama_factory.model.adapted import AdaptedModel, adapt
from llama_factory.model.base import fingerprint
from llama_factory.model.chat.encoding import encode_options
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training import checkpoints
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.training.objectives import require_fitting
from llama_factory.training.parallel import process_group

CHECKPOINTS = "checkpoints"
ROWS = ".data"
"""The rows while they are trained on; removed with the last write."""


@dataclass(frozen=True)
class TrainOptions:
    """What a single run does besides training.

    Attributes:
        log_dir: of TensorBoard; None for a folder in the output.
        do_predict: answer all held-out rows at the end and keep the answers.
        overwrites: a finished run in the output is replaced, once this one is whole.
        resume: what it goes on from, see `TrainingFolders`.
        draw_courses: draws the rows of metrics.jsonl into a folder.
    """

    log_dir: Path | None = None
    do_predict: bool = False
    overwrites: bool = False
    resume: Path | bool | None = None
    draw_courses: Callable[[Sequence[Mapping[str, Any]], Path], None] | None = None


@dataclass(frozen=True)
class TrainReport:
    """What a single run came to.

    Attributes:
        folder: where everything lies: a plain PEFT folder, or a whole model.
        results: what all_results.json holds; empty in a process that is not the first of several.
    """

    folder: Path
    results: dict[str, Any]

    @property
    def loss(self) -> float:
        """The last loss of training."""
        return float(self.results["training"]["loss"])

    def to_json(self) -> dict[str, Any]:
        """The results as plain values, and where they lie."""
        return self.results | {"output_dir": str(self.folder)}


@dataclass(frozen=True)
class Start:
    """Where a run starts: at the base model, or at adapters that were saved.

    Attributes:
        settings: with what they leave open taken from the adapter that is trained on.
        parent: the adapter to go on with; None for a fresh one.
        merged: adapters to merge into the base before, in their order.
    """

    settings: ModelSettings
    parent: Path | None = None
    merged: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Run:
    """A single run in one of its processes, which writes into a folder until it is whole."""

    config: LearningConfig
    folder: Path
    options: TrainOptions
    progress: Progress
    is_first: bool


def fit(
    config: LearningConfig, output: Path, progress: Progress, options: TrainOptions = TrainOptions()
) -> dict[str, Any]:
    """Train on `data.train_path` and write adapter, tokenizer, logs and scores to `output`.

    An interrupted run goes on from its last checkpoint.

    Returns:
        What all_results.json holds; nothing in a process that is not the first of several.

    Raises:
        FactoryError: the message says what is wrong.
    """
    with process_group(timeout=config.training.process_timeout) as processes:
        is_first = processes.is_first
        progress = progress if is_first else SILENT
        with processes.in_turn():
            folder = _begin(output, options, progress, is_first=is_first)
        run = _Run(config, folder, options, progress, is_first)
        try:
            resume = _resume(run, output)
            with processes.in_turn():
                data = _prepare(run) if is_first else load(folder / ROWS)
            if options.do_predict:
                require_answerable(data.held_out, config)
            results = _train(run, data, resume)
        except FactoryError:
            if is_first:
                outputs.give_up(folder, output)
            raise
        if is_first:
            outputs.finish(folder, output)
        return results


def _begin(output: Path, options: TrainOptions, progress: Progress, *, is_first: bool) -> Path:
    """The folder that the run writes into, which the first of several processes makes."""
    if is_first:
        return outputs.begin(output, replaces=options.overwrites, progress=progress)
    return outputs.place(output, replaces=options.overwrites)


def _resume(run: _Run, output: Path) -> Path | bool | None:
    """What to go on from. A run's own folder may be named before there is anything in it."""
    asked, own = run.options.resume, run.folder / CHECKPOINTS
    names = {output.resolve(), (output / CHECKPOINTS).resolve()}
    if isinstance(asked, Path) and asked.expanduser().resolve() in names:
        asked = own if any(own.glob("step-*")) else None
    checkpoints.require_some(own, asked)
    return asked


def _prepare(run: _Run) -> PreparedData:
    return prepare_rows(run.config, run.folder / ROWS, run.progress)


def prepare_rows(config: LearningConfig, folder: Path, progress: Progress) -> PreparedData:
    """Read and clean the rows of a single run, and report those left out.

    Args:
        config: of the run.
        folder: a new one for them.
        progress: shows how far it is.

    Raises:
        DataError: there is no usable row.
    """
    settings = config.data
    sources = gather(settings)
    if has_tests(settings):
        settings = settings.model_copy(update={"held_out_fraction": 0.0, "held_out_rows": None})
    data = prepare(
        sources, settings, DataFolders(folder, files.cache_folder() / "data"), progress=progress
    )
    for refused in data.report.refused:
        progress.say(f"Left out: {refused}")
    for warning in data.report.unread_warnings:
        progress.say(f"Unread: {warning}")
    for reason, count in data.report.dropped.items():
        progress.say(f"Dropped: {count} rows, {reason}.")
    if not len(data.train):
        named = settings.train_path or ", ".join(settings.dataset)
        raise DataError(f"data.train_path: {named} holds no usable row.")
    require_fitting(config.training.objective, data.train)
    return data


def _train(run: _Run, data: PreparedData, resume: Path | bool | None) -> dict[str, Any]:
    config = run.config
    start = start_of(config.model)
    model = adapt(
        start.settings,
        start.parent,
        options=encode_options(config.data),
        seed=config.training.seed,
        merged=start.merged,
    )
    tested = data.held_out if run.is_first and config.training.objective.teaches_answers else ()
    before = _score(run, model, tested, "testing the base model")
    trained = train(
        model,
        data.train,
        config.training,
        Protection(tuple(config.strategies)),
        folders=_folders(run, resume),
        progress=run.progress,
        held_out=data.held_out,
        on_checkpoint=LoadableCheckpoints(
            run.folder, model, config.training, len(data.train)
        ).write,
    )
    if not run.is_first:
        return {}
    after = _score(run, model, tested, "testing the trained model")
    results = {"training": trained.to_json(), "before": before, "after": after}
    results |= trainer_files.write(
        run.folder, results["training"], config.training, len(data.train)
    )
    if run.options.do_predict:
        predict_rows(model, data.held_out, config, run.folder, progress=run.progress)
    results |= {"data": data.report.to_json()}
    _write(run, trained, results)
    return results


def start_of(settings: ModelSettings) -> Start:
    """Read `adapter_paths` and `create_new_adapter`, before any model is loaded.

    All adapters but the last are merged and training goes on with that one; a new adapter is
    trained on all of them merged.

    Raises:
        ModelError: a folder holds no adapter, or one that was trained on another base model.
    """
    folders = [path.expanduser() for path in settings.adapter_paths]
    for folder in folders:
        _require_adapter(folder)
    order = provenance.with_merged(folders)
    if order:
        base = fingerprint(resolve(settings.base_model))
        for folder in order:
            provenance.require_base(folder, base, settings.base_model)
    if settings.create_new_adapter or not order:
        return Start(settings, merged=order)
    adopted = settings.adapter.adopt(order[-1])
    return Start(settings.model_copy(update={"adapter": adopted}), order[-1], order[:-1])


def _require_adapter(folder: Path) -> None:
    if (folder / provenance.ADAPTER_FILE).is_file():
        return
    if (folder / "config.json").is_file():
        raise ModelError(
            f"model.adapter_paths: {folder} holds a whole model and no adapter. Name it as "
            "model.base_model instead."
        )
    raise ModelError(
        f"model.adapter_paths: {folder} is no adapter: it {provenance.describe_missing(folder)} "
        "Give the folder that training wrote (output_dir)."
    )


def _folders(run: _Run, resume: Path | bool | None) -> TrainingFolders:
    return TrainingFolders(
        checkpoints=run.folder / CHECKPOINTS,
        metrics=run.folder / "metrics.jsonl",
        events=run.options.log_dir or run.folder / "runs",
        tokens=files.cache_folder() / "tokens",
        resume=resume,
    )


def _score(run: _Run, model: AdaptedModel, rows: Sequence[Example], title: str) -> dict[str, Any]:
    """Scores of held-out rows by group, with intervals."""
    if not len(rows):
        return EvalReport({}, None, 0.0).to_json()
    tasks = tasks_by_group("eval", rows)
    settings = run.config.evaluation
    report, answers = evaluate(model, tasks, settings, title=title, progress=run.progress)
    return report.to_json() | {"intervals": intervals_to_json(score_intervals(answers))}


def _write(run: _Run, trained: TrainedModel, results: dict[str, Any]) -> None:
    folder = run.folder
    trained.model.tokenizer.save_pretrained(folder)
    if run.options.draw_courses is not None:
        run.options.draw_courses(list(files.read_jsonl(folder / "metrics.jsonl")), folder)
    files.write_json(folder / outputs.RESULTS, results)
    shutil.rmtree(folder / ROWS)
    outputs.save(
        trained.model, folder, card=lambda place: model_card.write(place, run.config, results)
    )  # last: a folder with weights is complete
