"""The verbs: all that a person can ask for, each in a few lines.

Here are those about rounds, releases and single runs; `use.py` has those about a model that
answers, `upkeep.py` about versions, `operate.py` about servers, `oversee.py` about the loop,
`curate.py` about rows. `import llama_factory` offers them in Python; the command line and pages
call them. In all of them `changes` are settings for this call alone, such as
`{"training.epochs": 1}`, and `progress` shows how far long work is. What a person can mend is a
`FactoryError` whose message tells how. Heavy layers are imported inside the verbs, so that
`versions` or a bad setting answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.config import template
from llama_factory.config.changes import Changes
from llama_factory.config.explain import explain as explained
from llama_factory.config.loading import SettingsSource, load_config, resolve
from llama_factory.config.wording import Reworded, reworded, words_of
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError, FactoryError, VersionError
from llama_factory.core.preemption import leaving_on_notice
from llama_factory.core.progress import SILENT, Progress
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.types import BASE_VERSION
from llama_factory.jobs.model_reference import ModelReference
from llama_factory.reports.listing import VersionRow, list_versions
from llama_factory.versions import releases, store
from llama_factory.versions.journal import Journal
from llama_factory.versions.journal_facts import reconcile
from llama_factory.versions.releases import PRODUCTION
from llama_factory.versions.version import ModelVersion, require_servable
from llama_factory.versions.workspace import PathLike, Workspace

NOTHING_BEFORE = kind(
    "problem.nothing_before",
    "{folder}: nothing was released before {version}, so there is nothing to roll back "
    "to. Name a version with --to, such as {base}.",
)
RELEASED_ALREADY = kind(
    "problem.released_already", "{folder}: {version} is the released version already."
)

if TYPE_CHECKING:
    from llama_factory.config.schema import RunConfig
    from llama_factory.data.cleaning_report import DataReport
    from llama_factory.evaluation.comparison import Comparison
    from llama_factory.evaluation.lineage_scores import LineageScores
    from llama_factory.jobs.cross_validation import CrossValidation
    from llama_factory.jobs.runs import RunRow
    from llama_factory.jobs.train import TrainReport
    from llama_factory.monitoring.observe import Health
    from llama_factory.rounds.calibrate import Calibration
    from llama_factory.rounds.finishing import Round, RoundEnding


def init(folder: PathLike, base_model: PathLike = "smollm2") -> Workspace:
    """Make a workspace with commented settings and version v0000, the base model.

    Args:
        folder: a new one.
        base_model: a short name, a folder or a hub id.
    """
    from llama_factory.model.source import check_name

    name = os.fspath(base_model)
    check_name(name)
    return store.create_workspace(folder, name, template.settings_file(name))


def adopt(
    output_dir: PathLike,
    folder: PathLike,
    settings: SettingsSource = None,
    data: Sequence[PathLike] = (),
    progress: Progress = SILENT,
) -> ModelVersion:
    """Make a workspace that goes on from an adapter trained elsewhere, LLaMA-Factory's or any PEFT.

    Args:
        output_dir: the adapter's folder.
        folder: the new workspace.
        settings: LLaMA-Factory's YAML that it was trained with: names its rows and its template.
        data: files with the rows that it was taught.
        progress: shows what is read.

    Returns:
        The released version, v0001. Its rows are never taught again.

    Example:
        >>> lf.adopt("saves/qwen3-4b/lora/sft", "my-bot", settings="sft.yaml")
    """
    from llama_factory.config.adopted import adopted_file
    from llama_factory.data.sources.files import find_sources
    from llama_factory.data.sources.named import gather
    from llama_factory.model.saved import find_adapters
    from llama_factory.model.settings import ModelSettings
    from llama_factory.rounds import adopting

    trained = None if settings is None else load_config(settings)
    base_model = find_adapters(os.fspath(output_dir), None, ModelSettings()).settings.base_model
    sources = [each for path in data for each in find_sources(Path(path), setting="--data")]
    if trained is not None and (trained.data.train_path or trained.data.dataset):
        sources += gather(trained.data)
    text = adopted_file(base_model, Path(output_dir), trained)
    workspace = store.create_workspace(folder, base_model, text)
    config = load_config(workspace.settings)
    return adopting.adopt(workspace, config, Path(output_dir), sources, progress)


def learn(
    folder: PathLike,
    changes: Changes = (),
    progress: Progress = SILENT,
    *,
    again: bool = False,
    intent: int | None = None,
) -> Round | None:
    """Teach what is in the inbox; release the result if the gate lets it pass.

    Args:
        folder: the workspace.
        changes: settings for this round alone.
        progress: shows how far it is.
        again: train also what the same files, settings and released version made before.
        intent: take only the files that this event of the journal names, as they were then.

    Returns:
        The new version with the gate's verdict; None where the inbox holds nothing new.

    Example:
        >>> done = lf.learn("my-bot", {"training.epochs": 5})
    """
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    config.training.check()
    from llama_factory.rounds import round as rounds

    only = Journal(workspace.journal).event(intent).data["files"] if intent else None
    ending = _ending(workspace, config)
    with leaving_on_notice(config.training.preemption_notice, progress.say):
        done = rounds.learn(workspace, config, progress, ending=ending, again=again, only=only)
        safer = rounds.safer(config, done)
        if safer is None:
            return done
        progress.say(f"{done and done.version.id} is refused: trained once more with `safe`.")
        return rounds.learn(workspace, safer, progress, ending=ending, again=again, only=only)


def consolidate(folder: PathLike, changes: Changes = (), progress: Progress = SILENT) -> Round:
    """Put the updates of all rounds so far into the weights; a fresh adapter begins."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    from llama_factory.rounds.consolidate import consolidate as begin_anew

    return begin_anew(workspace, config, progress, ending=_ending(workspace, config))


def _ending(workspace: Workspace, config: RunConfig) -> RoundEnding:
    """What is done with a version besides: its page, and checks before its release."""
    from llama_factory.reports.page import write_pages
    from llama_factory.rounds.finishing import RoundEnding
    from llama_factory.rounds.hooks import checks_of

    return RoundEnding(write_pages, checks_of(workspace, config.loop))


def promote(folder: PathLike, version: str) -> str:
    """Release a version by hand, whatever the gate said, if it can answer; returns its id."""
    workspace = Workspace.open(folder)
    chosen = store.get(workspace, version)
    _release(workspace, chosen, releases.BY_HAND())
    return chosen.id


def rollback(folder: PathLike, to: str | None = None) -> tuple[str, str]:
    """Release an earlier version again, the one before unless `to` names another; one atomic write.

    Returns:
        The ids of the version released until now and of the one released from now on.

    Raises:
        VersionError: there is no such version, or it cannot answer.
    """
    workspace = Workspace.open(folder)
    current = releases.read(workspace.releases)
    target = to or current.aliases.get(releases.PREVIOUS)
    if target is None:
        raise VersionError(
            NOTHING_BEFORE(folder=folder, version=current.production, base=BASE_VERSION)
        )
    version = store.get(workspace, target)
    if version.id == current.production:
        raise VersionError(RELEASED_ALREADY(folder=folder, version=version.id))
    _release(workspace, version, releases.ROLLED_BACK())
    return current.production, version.id


def _release(workspace: Workspace, version: ModelVersion, why: str) -> None:
    """Release a version that can answer; unreadable settings keep nobody from going back."""
    try:
        config = load_config(workspace.settings)
    except ConfigError:
        require_servable(version, version.base_model)
    else:
        require_servable(version, config.model.base_model)
        config.serving.engine.require_takes(version)
    releases.promote(workspace.releases, version.id, why)
    with contextlib.suppress(VersionError, sqlite3.Error):  # written down later, by whoever looks
        reconcile(workspace)


def versions(
    folder: PathLike, *, last: int | None = None, before: str | None = None
) -> list[VersionRow]:
    """Versions of a workspace, oldest first: all, or the `last` so many made before `before`."""
    return list_versions(Workspace.open(folder), last=last, before=before)


def show(
    folder: PathLike,
    version: str = PRODUCTION,
    picture: PathLike | None = None,
    *,
    curves: PathLike | None = None,
) -> LineageScores:
    """A version's report and forgetting matrices; the last one is drawn as `picture`, `curves`."""
    from llama_factory.evaluation.lineage_scores import read_lineage_scores

    chosen = store.get(Workspace.open(folder), version)
    lineage, wrong = store.readable_lineage(chosen)
    scores = read_lineage_scores(lineage, chosen, left_out=map(str, wrong))
    if picture is not None or curves is not None:
        from llama_factory.reports.page import write_pictures

        drawn = [None if each is None else Path(each) for each in (picture, curves)]
        write_pictures(scores, *drawn)
    return scores


def calibrate_gate(folder: PathLike, changes: Changes = ()) -> Calibration:
    """How much the rows of a workspace let its gate tell, and how often it errs on known drops."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    from llama_factory.rounds.calibrate import calibrate

    return calibrate(workspace, config.gate)


def monitor(
    folder: PathLike,
    changes: Changes = (),
    progress: Progress = SILENT,
    *,
    picture: PathLike | None = None,
    measure: bool = False,
) -> Health:
    """Measure drift of rows that wait, decay, users and the machine; add it to the series.

    Args:
        folder: the workspace.
        changes: settings for this call alone.
        progress: shows how far the model is.
        picture: draws the series as SVG or PNG, by the name's ending.
        measure: ask the released version all held-out rows again, and how likely those are that
            wait in the inbox; else what its round measured counts.
    """
    from llama_factory.monitoring.observe import Standards, observe

    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    standards = Standards(config.gate.metric, config.gate.max_drop)
    if measure:
        from llama_factory.rounds.remeasure import measure_production

        now, losses = measure_production(workspace, config, progress)
        found = observe(workspace, standards, now=now, losses=losses)
    else:
        found = observe(workspace, standards)
    if picture is not None:
        from llama_factory.reports.series import draw_series

        draw_series(found.history, Path(picture))
    return found


def report(folder: PathLike, version: str = PRODUCTION, output: PathLike | None = None) -> Path:
    """Write what `show` returns, with pictures, as one HTML file; returns where it is."""
    from llama_factory.reports.page import write_report

    scores = show(folder, version)
    path = Path(output or Path(folder) / "reports" / f"{scores.version.id}.html")
    write_report(scores, path)
    return path


def compare(
    folder: PathLike,
    names: tuple[str, str] = (releases.PREVIOUS, PRODUCTION),
    changes: Changes = (),
    progress: Progress = SILENT,
) -> Comparison:
    """Two versions on the held-out rows of all that either was taught: differences, rows."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    before, after = (store.get(workspace, name) for name in names)
    from llama_factory.evaluation.measurements import Measuring, compare_versions
    from llama_factory.model.chat.encoding import encode_options

    how = Measuring(
        lambda each: ModelReference(str(workspace.folder), each.id).find(config.model),
        encode_options(config.data),
        config.evaluation,
    )
    return compare_versions(workspace, (before, after), how, progress=progress)


def clean_data(
    path: PathLike,
    output: PathLike | None = None,
    settings: SettingsSource = None,
    changes: Changes = (),
    progress: Progress = SILENT,
) -> DataReport:
    """What a round would make of rows; the clean ones are written to a new folder, if one is named.

    `settings` may be a workspace too.
    """
    target = Path(output) if output else None
    if target is not None and target.exists() and any(target.iterdir()):
        raise DataError(f"{target} exists and is not empty. Give a new folder's name.")
    if isinstance(settings, str | Path) and Path(settings).is_dir():
        settings = Workspace.open(settings).settings
    config = load_config(settings, changes).data
    from llama_factory.data.prepare import DataFolders, prepare
    from llama_factory.data.sources.named import gather_path

    with tempfile.TemporaryDirectory() as folder:
        folders = DataFolders(target or Path(folder), files.cache_folder() / "data")
        sources = gather_path(Path(path), config)
        return prepare(sources, config, folders, progress=progress).report


def train(
    settings: SettingsSource, changes: Changes = (), progress: Progress = SILENT
) -> TrainReport:
    """A single run without a workspace; the output folder is a plain PEFT folder.

    Args:
        settings: a YAML file, ours or LLaMA-Factory's, or a mapping of the same settings.
        changes: applied on top, as a mapping or as on the command line.
        progress: shows how far it is.

    Returns:
        The output folder and all scores; no scores in a process that is not the first of several.

    Example:
        >>> done = lf.train("sft.yaml", {"training.epochs": 1})
    """
    resolved = resolve(settings, changes)
    for note in resolved.notes:
        progress.say(note)
    words = words_of(resolved.origins)
    try:
        return _train(resolved.config, settings, Reworded(progress, words))
    except FactoryError as error:
        error.args = (reworded(str(error), words), *error.args[1:])
        raise


def _train(config: RunConfig, settings: SettingsSource, progress: Progress) -> TrainReport:
    config.training.check()
    if config.do_train:
        config.model.adapter.require_hardware()  # before rows are read
    name = Path(settings).stem if isinstance(settings, str | Path) else "train"
    output = config.output_dir or Path("outputs") / name
    from llama_factory.jobs.predict import predict_only
    from llama_factory.jobs.train import TrainOptions, TrainReport, fit
    from llama_factory.reports.pictures import draw_courses

    if not config.do_train:
        return TrainReport(output, predict_only(config, output, progress))
    overwrites, resume = config.overwrite_output_dir, config.resume_from_checkpoint
    options = TrainOptions(config.log_dir, config.do_predict, overwrites, resume, draw_courses)
    with leaving_on_notice(config.training.preemption_notice, progress.say):
        done = TrainReport(output, fit(config, output, progress, options))
    if config.upload_to and done.results:
        from llama_factory.jobs.upload import upload

        upload(output, config.upload_to, is_private=config.upload_is_private, say=progress.say)
    return done


def explain(
    settings: SettingsSource, changes: Changes = (), *, num_processes: int | None = None
) -> str:
    """The settings that `train` would run with, in `num_processes`, and where each comes from."""
    return explained(resolve(settings, changes, num_processes=num_processes))


def cross_validate(
    settings: SettingsSource,
    num_folds: int,
    output: PathLike,
    changes: Changes = (),
    progress: Progress = SILENT,
) -> CrossValidation:
    """Train as `train` would on all folds but one and test on that one, for each of them."""
    config = load_config(settings, changes)
    from llama_factory.jobs import cross_validation

    return cross_validation.cross_validate(config, num_folds, Path(output), progress)


def runs(folder: PathLike) -> list[RunRow]:
    """Every run found at or below a folder with its state, the latest first."""
    from llama_factory.jobs.runs import find_runs

    return find_runs(Path(folder))
