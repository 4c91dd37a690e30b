"""A single run without a workspace: the same engine, a plain PEFT folder as output."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, FactoryError
from llama_factory.core.progress import SILENT, Progress
from llama_factory.core.types import EvalReport, Example, tasks_by_group
from llama_factory.data.prepare import PreparedData, load
from llama_factory.evaluation.evaluator import evaluate
from llama_factory.evaluation.scoring import intervals_to_json, score_intervals
from llama_factory.jobs import model_card, outputs, trainer_files
from llama_factory.jobs.loadable import LoadableCheckpoints
from llama_factory.jobs.predict import predict_rows, require_answerable
from llama_factory.jobs.starting import prepare_rows, start_of
from llama_factory.jobs.tokenized import TokenizedRows
from llama_factory.model.adapted import AdaptedModel, adapt
from llama_factory.model.chat.encoding import encode_options
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training import checkpoints
from llama_factory.training.checkpoints import Position
from llama_factory.training.loop import Protection, TrainedModel, TrainingFolders, train
from llama_factory.training.processes import process_group

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
        if rows := _unwritten(config):
            with processes.in_turn():
                return rows.write(config, progress) if is_first else {}
        progress = progress if is_first else SILENT
        with processes.in_turn():
            folder = _begin(output, options, progress, is_first=is_first)
        run = _Run(config, folder, options, progress, is_first)
        try:
            resume = _resume(run, output)
            with processes.in_turn():
                data = _prepare(run)
            if options.do_predict:
                _require_whole(config)
                require_answerable(data.held_out, config)
            results = _train(run, data, resume)
        except FactoryError:
            if is_first:
                outputs.give_up(folder, output)
            raise
        if is_first:
            outputs.finish(folder, output)
        return results


def _require_whole(config: LearningConfig) -> None:
    """Rows can only be answered where the model is whole.

    Raises:
        ConfigError: it never is.
    """
    if config.training.parallel.in_place:
        raise ConfigError(
            "do_predict and training.parallel.whole: false exclude each other: no process has the "
            "model whole, so nobody can answer. Leave do_predict out, and answer afterwards with "
            "llama-factory predict."
        )


def _unwritten(config: LearningConfig) -> TokenizedRows | None:
    """Where rows are to be written as tokens instead of a training."""
    path = config.data.tokenized_path
    if path is None:
        return None
    rows = TokenizedRows(path)
    return None if rows.is_written else rows


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
    """The rows: as they were written before, or of the first process, which prepares them."""
    tokenized = run.config.data.tokenized_path
    if tokenized is not None:
        run.progress.say(f"The rows are those in {tokenized}, whatever the settings of data say.")
        return TokenizedRows(tokenized).load()
    if not run.is_first:
        return load(run.folder / ROWS)
    return prepare_rows(run.config, run.folder / ROWS, run.progress)


def _train(run: _Run, data: PreparedData, resume: Path | bool | None) -> dict[str, Any]:
    config = run.config
    start = start_of(config.model)
    model = adapt(
        start.settings,
        start.parent,
        options=encode_options(config.data),
        seed=config.training.seed,
        merged=start.merged,
        in_place=config.training.parallel.in_place,
    )
    tested = data.held_out if run.is_first and _tests_answers(run) else ()
    before = _score(run, model, tested, "testing the base model")
    trained = train(
        model,
        data.train,
        config.training,
        Protection(tuple(config.strategies)),
        folders=_folders(run, resume),
        progress=run.progress,
        held_out=data.held_out,
        on_checkpoint=_loadable(run, model, len(data.train)),
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


def _loadable(run: _Run, model: AdaptedModel, num_rows: int) -> Callable[[Position], None] | None:
    """What writes folders for other programs beside checkpoints, where they are asked for."""
    training = run.config.training
    if not training.loadable_checkpoints:
        return None
    return LoadableCheckpoints(run.folder, model, training, num_rows).write


def _tests_answers(run: _Run) -> bool:
    """Whether held-out rows are answered before and after the training."""
    if run.config.training.parallel.in_place:
        run.progress.say(
            "training.parallel.whole: false: no process has the model whole, so answers are not "
            "tested. The loss of held-out rows is measured on the way, and llama-factory predict "
            "answers rows afterwards."
        )
        return False
    return run.config.training.objective.teaches_answers


def _folders(run: _Run, resume: Path | bool | None) -> TrainingFolders:
    written = run.config.data.tokenized_path
    return TrainingFolders(
        checkpoints=run.folder / CHECKPOINTS,
        metrics=run.folder / "metrics.jsonl",
        events=run.options.log_dir or run.folder / "runs",
        tokens=TokenizedRows(written).tokens if written else files.cache_folder() / "tokens",
        resume=resume,
        states=files.cache_folder() / "states",
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
    shutil.rmtree(folder / ROWS, ignore_errors=True)
    outputs.save(
        trained.model, folder, card=lambda place: model_card.write(place, run.config, results)
    )  # last: a folder with weights is complete
