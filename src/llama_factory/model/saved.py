"""Saved adapters -> the network they make. For answers and export; training is `adapted.adapt`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model import provenance
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.base import fingerprint, load_network, rounded, tokenizer_of
from llama_factory.model.chat import prompt_format
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.new_tokens import make_room
from llama_factory.model.provenance import ADAPTER_FILE
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import HUB_IDS, resolve
from llama_factory.model.wrapping import with_merged, wrap_saved


@dataclass(frozen=True)
class SavedModel:
    """A base model and the adapters saved for it.

    Attributes:
        settings: template and number format.
        base: its folder; or that of a model whose own weights were trained.
        adapters: PEFT folders in the order in which they apply, each trained on those before it
            merged; empty for a model without any.
        is_untouched: whether nothing was trained at all.
    """

    settings: ModelSettings
    base: Path
    adapters: tuple[Path, ...]
    is_untouched: bool = False

    def identity(self) -> str:
        """Identifies the weights: a change to the base or to any adapter gives another text."""
        paths = [path for folder in self.adapters for path in sorted(folder.glob("adapter_*"))]
        return " ".join([fingerprint(self.base), *map(files.sha256, paths)])

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The one saved beside the last adapter that has one, else the base model's.

        It has the chat template and the end token that the weights were taught with.
        """
        kept = None if self.is_untouched else prompt_format.kept(self._trained)
        return tokenizer_of(self.settings, self.base, self.adapters, kept)

    @property
    def _trained(self) -> Path:
        """The folder of the weights that were trained last."""
        return self.adapters[-1] if self.adapters else self.base

    def format(self, usual: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """How the model was taught to be asked; as usual where nothing was trained."""
        return usual if self.is_untouched else prompt_format.read(self._trained, usual, tokenizer)

    def network(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """The base model with all adapters but the last one merged, and that one on top.

        Raises:
            ModelError: the base cannot be read, or an adapter cannot be read or does not fit it.
        """
        *under, last = self.adapters or (None,)
        network = self.base_network(tokenizer, is_exact=bool(under))
        if under:
            network = rounded(with_merged(network, under), self._unpacked())
        return wrap_saved(network, last).eval() if last else network

    def base_network(self, tokenizer: PreTrainedTokenizerBase, *, is_exact: bool = False) -> Any:
        """The base model alone, with room for the tokenizer's new tokens.

        Its weights are read as they were saved, never packed as QLoRA trains beside them: an
        adapter answers most exactly so, and can be merged.
        """
        network = load_network(self.base, self._unpacked(), is_exact=is_exact)
        make_room(network, tokenizer)
        return network

    def _unpacked(self) -> ModelSettings:
        return self.settings.model_copy(update={"adapter": Lora()})

    def open(self, options: EncodeOptions) -> AdaptedModel:
        """The model ready to answer, prompted as it was trained; `options` give the rest."""
        tokenizer = self.tokenizer()
        options = replace(options, format=self.format(options.format, tokenizer))
        return AdaptedModel(self.network(tokenizer), tokenizer, fingerprint(self.base), options)


def of_version(
    settings: ModelSettings, adapters: tuple[Path, ...], base_fingerprint: str
) -> SavedModel:
    """The model that a version of a workspace stands for.

    Args:
        settings: the workspace's.
        adapters: the version's; none for the base version.
        base_fingerprint: of the base model that it was trained on; empty for the base version.

    Raises:
        ModelError: the settings now name another base model.
    """
    base = resolve(settings.base_model)
    if base_fingerprint not in ("", fingerprint(base)):
        raise ModelError(
            f"model.base_model: this version was trained on another base model than "
            f"{settings.base_model}, so its adapter does not fit. Set model.base_model back to "
            "the model it was trained on."
        )
    if any(map(_is_whole, adapters)):
        return SavedModel(settings, adapters[-1], ())
    whole = provenance.with_merged(adapters)
    return SavedModel(settings, base, whole, is_untouched=not adapters)


def find_adapters(names: str, base_model: str | None, settings: ModelSettings) -> SavedModel:
    """The model that plain PEFT folders, or the folder of a whole model, stand for.

    Args:
        names: a folder, or several with commas between them.
        base_model: None takes the one that the last adapter names.
        settings: template and number format; its base model is not looked at.

    Raises:
        ModelError: a folder is no adapter, or the base model is unknown or another one.
    """
    folders = tuple(Path(name.strip()).expanduser() for name in names.split(","))
    if len(folders) == 1 and _is_whole(folders[0]):
        if base_model is not None:
            raise ModelError(f"--base: {names} holds a whole model. Leave --base out.")
        return SavedModel(settings, folders[0].resolve(), ())
    named = [_base_of(folder) for folder in folders]
    chosen = base_model or named[0]
    if not chosen:
        raise ModelError(
            f"{folders[0] / ADAPTER_FILE} names no base model (base_model_name_or_path). Name it "
            "with --base."
        )
    for folder, other in zip(folders, named, strict=True):
        _require_same_name(folder, other, chosen)
    base = _resolve_base(chosen, folders[0], is_given=base_model is not None)
    for folder, other in zip(folders, named, strict=True):
        _require_same_weights(folder, other, chosen, base)
    order, found = provenance.with_merged(folders), fingerprint(base)
    for folder in order:
        provenance.require_base(folder, found, chosen)
    return SavedModel(settings.model_copy(update={"base_model": chosen}), base, order)


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds a whole model, as full training writes it, and no adapter."""
    return (folder / "config.json").is_file() and not (folder / ADAPTER_FILE).is_file()


def _base_of(folder: Path) -> str:
    """The base model that an adapter folder names; empty where it names none."""
    file = folder / ADAPTER_FILE
    if file.is_file():
        try:
            return str(files.read_json(file).get("base_model_name_or_path") or "")
        except (ValueError, AttributeError) as error:
            raise ModelError(f"{file} is damaged and cannot be read: {error}") from error
    raise ModelError(
        f"{folder} is neither a workspace nor an adapter: it {provenance.describe_missing(folder)} "
        "Give a workspace, or the folder that training wrote (output_dir)."
    )


def _resolve_base(name: str, folder: Path, *, is_given: bool) -> Path:
    try:
        return resolve(name)
    except ModelError as error:
        where = "--base" if is_given else f"the base model of {folder / ADAPTER_FILE}"
        hint = "" if is_given else " If it was moved, say where with --base."
        reason = str(error).removeprefix("model.base_model: ")
        raise ModelError(f"{where}: {reason}{hint}") from error


def _require_same_name(folder: Path, named: str, chosen: str) -> None:
    """Refuse another hub model than the adapter's before it is downloaded."""
    if named and not any(Path(name).expanduser().is_dir() for name in (named, chosen)):
        is_hub_id = named.count("/") == 1 and not named.startswith((".", "/", "~"))
        if is_hub_id and HUB_IDS.get(named, named) != HUB_IDS.get(chosen, chosen):
            raise _another_base(folder, named, chosen)


def _require_same_weights(folder: Path, named: str, chosen: str, base: Path) -> None:
    """Compare the weights where the model that the adapter was trained on is still here."""
    here = Path(named).expanduser() if named else None
    if here is None or not (here / "config.json").is_file() or here.resolve() == base:
        return
    if fingerprint(here) != fingerprint(base):
        raise _another_base(folder, named, chosen)


def _another_base(folder: Path, named: str, chosen: str) -> ModelError:
    return ModelError(
        f"{folder} was trained on {named} ({ADAPTER_FILE}) and the base model is {chosen}, whose "
        "weights differ, so the adapter does not fit. Give the base it was trained on."
    )
