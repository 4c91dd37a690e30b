"""The verbs: what a user can ask for, each in a few lines. The command line and pages call these.

Heavy layers are imported inside the verbs, so that `versions` or a bad setting answers at once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_factory.config import template
from llama_factory.config.changes import unused
from llama_factory.config.explain import explain as explained
from llama_factory.config.loading import load_config, resolve
from llama_factory.core import files
from llama_factory.core.errors import ConfigError, DataError, VersionError
from llama_factory.core.types import BASE_VERSION
from llama_factory.jobs.model_reference import ModelReference
from llama_factory.model.settings import ExportOptions
from llama_factory.reports.listing import VersionRow, list_versions
from llama_factory.versions import releases, store
from llama_factory.versions.version import ModelVersion, require_servable
from llama_factory.versions.workspace import Workspace

if TYPE_CHECKING:
    from llama_factory.config.schema import RunConfig
    from llama_factory.core.progress import Progress
    from llama_factory.core.types import Example
    from llama_factory.data.cleaning_report import DataReport
    from llama_factory.data.settings import DataSettings
    from llama_factory.evaluation.compare import Comparison
    from llama_factory.evaluation.lineage import Story
    from llama_factory.evaluation.suites.running import SuiteResult
    from llama_factory.jobs.cross_validation import CrossValidation
    from llama_factory.jobs.predict import PredictReport
    from llama_factory.jobs.runs import RunRow
    from llama_factory.model.export import Exported
    from llama_factory.model.saved import SavedModel
    from llama_factory.rounds.finishing import Round
    from llama_factory.serving.chat import ChatSession


def init(folder: Path, base_model: str) -> Workspace:
    """Make a workspace with commented settings and version v0000, the base model."""
    from llama_factory.model.source import check_name

    check_name(base_model)
    if folder.exists() and any(folder.iterdir()):
        raise VersionError(f"{folder} exists and is not empty. Give a new folder's name.")
    workspace = Workspace(folder.resolve())
    for path in (workspace.inbox, workspace.quarantine, workspace.versions):
        path.mkdir(parents=True, exist_ok=True)
    store.create_base(workspace, base_model)
    workspace.settings.write_text(template.settings_file(base_model), encoding="utf-8")
    return workspace


def learn(
    folder: Path, changes: Sequence[str], progress: Progress, *, again: bool = False
) -> Round | None:
    """Teach what is in the inbox; release the result if the gate lets it pass."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    config.training.check()
    from llama_factory.reports.page import write_pages
    from llama_factory.rounds import round as rounds

    return rounds.learn(workspace, config, progress, draw=write_pages, again=again)


def consolidate(folder: Path, changes: Sequence[str], progress: Progress) -> Round:
    """Put the updates of all rounds so far into the weights; a fresh adapter begins."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    from llama_factory.reports.page import write_pages
    from llama_factory.rounds.consolidate import consolidate as begin_anew

    return begin_anew(workspace, config, progress, draw=write_pages)


def train(path: Path | None, changes: Sequence[str], progress: Progress) -> dict[str, Any]:
    """A single run without a workspace; the output folder is a plain PEFT folder.

    Returns:
        What all_results.json holds; nothing in a process that is not the first of several.
    """
    resolved = resolve(path, changes)
    for note in [*resolved.notes, *unused(os.environ)]:
        progress.say(note)
    config = resolved.config
    config.training.check()
    output = config.output_dir or Path("outputs") / (path.stem if path else "train")
    from llama_factory.jobs.train import TrainOptions, fit

    if not config.do_train:
        return _predict_only(config, output, progress) | {"output_dir": str(output)}
    from llama_factory.reports.pictures import draw_loss

    options = TrainOptions(
        config.log_dir,
        config.do_predict,
        overwrites=config.overwrite_output_dir,
        resume=config.resume_from_checkpoint,
        draw_loss=draw_loss,
    )
    results = fit(config, output, progress, options)
    return results and results | {"output_dir": str(output)}


def _predict_only(config: RunConfig, output: Path, progress: Progress) -> dict[str, Any]:
    """Answers of saved adapters, or of the base model alone."""
    from llama_factory.jobs.predict import predict_only
    from llama_factory.model.saved import find_adapters, of_version

    paths, base = config.model.adapter_paths, config.model.base_model
    if paths:
        saved = find_adapters(",".join(map(str, paths)), base, config.model)
    else:
        saved = of_version(config.model, (), "")
    return predict_only(config, saved, output, progress)


def explain(path: Path | None, changes: Sequence[str], *, num_processes: int | None = None) -> str:
    """The settings that `train` would run with, as YAML, and where each comes from.

    `num_processes` is how many will train together, where they are not started yet.
    """
    return explained(resolve(path, changes, num_processes=num_processes))


def versions(folder: Path) -> list[VersionRow]:
    """All versions of a workspace, oldest first."""
    return list_versions(Workspace.open(folder))


def runs(folder: Path) -> list[RunRow]:
    """Every run found at or below a folder with its state, the latest first."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder. Give one that holds runs or workspaces.")
    from llama_factory.jobs.runs import find_runs

    return find_runs(folder)


def show(
    folder: Path, name: str, picture: Path | None = None, *, curves: Path | None = None
) -> Story:
    """A version's report and forgetting matrices.

    Args:
        folder: the workspace.
        name: version id or alias.
        picture: where to draw the last of the matrices as a heat map.
        curves: where to draw how its scores moved from version to version.
    """
    from llama_factory.evaluation.lineage import tell

    version = store.get(Workspace.open(folder), name)
    lineage, wrong = store.readable_lineage(version)
    story = tell(lineage, version, left_out=map(str, wrong))
    if picture is not None or curves is not None:
        from llama_factory.reports.page import write_curves, write_heat_map

        for path, write in ((picture, write_heat_map), (curves, write_curves)):
            if path is not None:
                write(story, path)
    return story


def report(folder: Path, name: str, output: Path | None) -> Path:
    """Write what `show` tells, with pictures, as one HTML file; returns where it is."""
    from llama_factory.reports.page import write_report

    story = show(folder, name)
    path = output or folder / "reports" / f"{story.version.id}.html"
    write_report(story, path)
    return path


def compare(
    folder: Path, names: tuple[str, str], changes: Sequence[str], progress: Progress
) -> Comparison:
    """Two versions on the held-out rows of all that either was taught: differences, rows."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    before, after = (store.get(workspace, name) for name in names)
    from llama_factory.evaluation.measured import Measuring, compare_versions
    from llama_factory.model.chat.encoding import encode_options

    def find(version: ModelVersion) -> SavedModel:
        return ModelReference(str(folder), version.id).find(config.model)

    how = Measuring(find, encode_options(config.data), config.evaluation)
    return compare_versions(workspace, (before, after), how, progress=progress)


def evaluate(
    source: ModelReference, suites: Sequence[str], output: Path | None, progress: Progress
) -> list[SuiteResult]:
    """Run suites on a model; predictions and results.json are in the output folder."""
    from llama_factory.evaluation.suites import Bench
    from llama_factory.evaluation.suites.running import choose_suites, run_suites

    config, tasks = _config_of(source), source.tasks()
    chosen = choose_suites(suites, tasks)
    from llama_factory.model.chat.encoding import encode_options

    saved = source.find(config.model)
    folder = output or source.evaluations
    model = saved.open(encode_options(config.data))
    bench = Bench(model, saved.identity(), tasks, config.evaluation, folder, progress)
    return run_suites(chosen, bench)


def cross_validate(
    path: Path, num_folds: int, output: Path, changes: Sequence[str], progress: Progress
) -> CrossValidation:
    """Train as `train` would on all folds but one and test on that one, for each of them."""
    config = load_config(path, changes)
    from llama_factory.jobs import cross_validation

    return cross_validation.cross_validate(config, num_folds, output, progress)


def promote(folder: Path, name: str) -> str:
    """Release a version by hand, whatever the gate said; returns its id.

    Raises:
        VersionError: there is no such version, or it cannot answer.
    """
    workspace = Workspace.open(folder)
    version = store.get(workspace, name)
    _release(workspace, version, "promoted by hand")
    return version.id


def _release(workspace: Workspace, version: ModelVersion, why: str) -> None:
    """Release a version that can answer; settings that cannot be read keep nobody from going back.

    Raises:
        VersionError: it cannot answer.
    """
    try:
        base_model = load_config(workspace.settings).model.base_model
    except ConfigError:
        base_model = version.base_model
    require_servable(version, base_model)
    releases.promote(workspace.releases, version.id, why)


def rollback(folder: Path, to: str | None) -> tuple[str, str]:
    """Release an earlier version again, in one atomic write.

    Returns:
        The ids of the version released until now and of the one released from now on.
    """
    workspace = Workspace.open(folder)
    current = releases.read(workspace.releases)
    target = to or current.aliases.get(releases.PREVIOUS)
    if target is None:
        raise VersionError(
            f"{folder}: nothing was released before {current.production}, so there is nothing to "
            f"roll back to. Name a version with --to, such as {BASE_VERSION}."
        )
    version = store.get(workspace, target)
    if version.id == current.production:
        raise VersionError(f"{folder}: {version.id} is the released version already.")
    _release(workspace, version, "rolled back")
    return current.production, version.id


def check_data(
    path: Path, settings: Path | None, changes: Sequence[str], progress: Progress
) -> DataReport:
    """What a round would make of a file or folder of rows; nothing is written but the cache."""
    with tempfile.TemporaryDirectory() as folder:
        return _prepare(path, Path(folder), _data_settings(settings, changes), progress)


def clean_data(
    path: Path, output: Path, settings: Path | None, changes: Sequence[str], progress: Progress
) -> DataReport:
    """Write the clean rows of a file or folder into a new folder."""
    if output.exists() and any(output.iterdir()):
        raise DataError(f"{output} exists and is not empty. Give a new folder's name.")
    return _prepare(path, output, _data_settings(settings, changes), progress)


def _data_settings(path: Path | None, changes: Sequence[str]) -> DataSettings:
    if path is not None and path.is_dir():
        path = Workspace.open(path).settings
    return load_config(path, changes).data


def _prepare(path: Path, folder: Path, settings: DataSettings, progress: Progress) -> DataReport:
    from llama_factory.data.prepare import DataFolders, prepare
    from llama_factory.data.sources.named import gather_path

    folders = DataFolders(folder, files.cache_folder() / "data")
    sources = gather_path(path, settings)
    return prepare(sources, settings, folders, progress=progress).report


def chat(folder: Path, name: str) -> ChatSession:
    """A conversation with a version, `production` being the released one."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings)
    version = store.get(workspace, name)
    from llama_factory.model.chat.encoding import encode_options
    from llama_factory.serving.chat import open_session

    usual = encode_options(config.data).format
    return open_session(config.model, version, max_tokens=config.serving.max_tokens, usual=usual)


def serve(folder: Path, changes: Sequence[str], say: Callable[[str], None]) -> None:
    """Answer OpenAI-style requests with the released version, until stopped."""
    workspace = Workspace.open(folder)
    config = load_config(workspace.settings, changes)
    from llama_factory.model.chat.encoding import encode_options
    from llama_factory.serving.server import serve as run_server

    run_server(
        workspace,
        config.serving,
        config.model,
        api_key=os.environ.get("API_KEY"),
        say=say,
        usual=encode_options(config.data).format,
    )


def api_demo(
    base_model: str, adapter: Path | None, changes: Sequence[str], say: Callable[[str], None]
) -> None:
    """Answer with a base model and an adapter that belong to no workspace, until stopped."""
    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        if not (adapter / "config.json").is_file():
            raise VersionError(f"{adapter} holds neither an adapter nor a model.")
        say(f"{adapter} is a whole model, which answers without {base_model}.")
        base_model, adapter = str(adapter), None
    if adapter is not None:
        from llama_factory.model.provenance import require_plain

        require_plain(adapter)
    with tempfile.TemporaryDirectory() as folder:
        name = Path(adapter or base_model).name or "model"
        workspace = store.create_temporary(Path(folder) / name, base_model, adapter)
        serve(workspace.folder, changes, say)


def export(
    source: ModelReference,
    output: Path,
    *,
    prompts: Path | None,
    dtype: str | None,
    shard_size: str,
    progress: Progress,
) -> Exported:
    """Merge a trained model into one that needs no adapter, checked on prompts."""
    config = _config_of(source)
    options = ExportOptions(dtype, shard_size, config.data.enable_thinking)
    options.check()
    from llama_factory.evaluation.suite import BUILT_IN_GUARD
    from llama_factory.model.export import export as write

    rows = _rows(prompts or BUILT_IN_GUARD, progress)
    return write(source.find(config.model), output, rows, options=options, progress=progress)


def predict(
    source: ModelReference,
    path: Path,
    output: Path,
    *,
    metrics: Sequence[str],
    max_new_tokens: int | None,
    progress: Progress,
) -> PredictReport:
    """Answer every row of a file and judge the answers; a stopped run goes on."""
    changes = [f"evaluation.metrics=[{', '.join(metrics)}]"] if metrics else []
    changes += [f"evaluation.max_new_tokens={max_new_tokens}"] if max_new_tokens else []
    config = _config_of(source, changes)
    from llama_factory.jobs.predict import PredictOptions, usual_metrics
    from llama_factory.jobs.predict import predict as write
    from llama_factory.model.chat.encoding import encode_options

    saved, rows = source.find(config.model), _rows(path, progress, may_lack_answer=True)
    judged = config.evaluation.metrics if metrics else usual_metrics(config.evaluation)
    how = config.evaluation
    options = PredictOptions(judged, how.max_new_tokens, saved.identity(), how.batch_tokens)
    model = saved.open(encode_options(config.data))
    return write(model, rows, output, options=options, progress=progress)


def _config_of(source: ModelReference, changes: Sequence[str] = ()) -> RunConfig:
    """The settings of the workspace, or the usual ones, with what was changed."""
    return load_config(source.settings, [*source.changes, *changes])


def _rows(path: Path, progress: Progress, *, may_lack_answer: bool = False) -> list[Example]:
    """The usable rows of a file; the others are told."""
    from llama_factory.core.types import Example
    from llama_factory.data.reading import read_examples

    try:
        found = list(read_examples(path, may_lack_answer=may_lack_answer))
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    for each in found:
        if not isinstance(each, Example):
            progress.say(f"Left out: {each}")
    return [each for each in found if isinstance(each, Example)]
