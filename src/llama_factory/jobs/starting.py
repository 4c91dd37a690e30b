"""Where a run without a workspace starts: at the base model, or at adapters that were saved."""

from dataclasses import dataclass
from pathlib import Path

from llama_factory.core.errors import ModelError
from llama_factory.model import provenance
from llama_factory.model.base import fingerprint
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve


@dataclass(frozen=True)
class Start:
    """What `load.adapt` needs to start at saved adapters.

    Attributes:
        settings: with what they leave open taken from the adapter that is trained on.
        parent: the adapter to go on with; None for a fresh one.
        merged: adapters to merge into the base before, in their order.
    """

    settings: ModelSettings
    parent: Path | None = None
    merged: tuple[Path, ...] = ()


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
