"""What a single run starts with: its rows, and the adapters that were saved before."""

from dataclasses import dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import DataError, ModelError
from llama_factory.core.progress import Progress
from llama_factory.data.prepare import DataFolders, PreparedData, prepare
from llama_factory.data.sources.named import gather, has_tests
from llama_factory.model import provenance
from llama_factory.model.base import fingerprint
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve
from llama_factory.rounds.settings import LearningConfig
from llama_factory.training.objectives import require_fitting


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
        reasons = [*data.report.refused, *data.report.unread_warnings]
        first = f" The first reason: {reasons[0]}" if reasons else ""
        raise DataError(f"data.train_path: {named} holds no usable row.{first}")
    require_fitting(config.training.objective, data.train)
    return data


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
