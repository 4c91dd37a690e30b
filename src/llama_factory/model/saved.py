"""Saved adapters -> the network they make. For answers and export; training is `load.adapt`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model import bottleneck, lineage
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.chat import prompt
from llama_factory.model.chat.masks import EncodeOptions
from llama_factory.model.chat.prompt import PromptFormat
from llama_factory.model.lineage import ADAPTER_FILE
from llama_factory.model.load import (
    AdaptedModel,
    fingerprint,
    load_network,
    rounded,
    tokenizer_of,
)
from llama_factory.model.names import HUB_IDS
from llama_factory.model.new_tokens import make_room
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve

UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError)
"""What PEFT raises for an adapter that is damaged or made for another model."""

COPIES = (".modules_to_save.", ".original_module.")
"""Parts of names under which PEFT writes resized embeddings once more and never reads them."""


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
        kept = None if self.is_untouched else prompt.kept(self._trained)
        return tokenizer_of(self.settings, self.base, self.adapters, kept)

    @property
    def _trained(self) -> Path:
        """The folder of the weights that were trained last."""
        return self.adapters[-1] if self.adapters else self.base

    def format(self, usual: PromptFormat, tokenizer: PreTrainedTokenizerBase) -> PromptFormat:
        """How the model was taught to be asked; as usual where nothing was trained."""
        return usual if self.is_untouched else prompt.read(self._trained, usual, tokenizer)

    def network(self, tokenizer: PreTrainedTokenizerBase) -> Any:
        """The base model with all adapters but the last one merged, and that one on top.

        Raises:
            ModelError: the base cannot be read, or an adapter cannot be read or does not fit it.
        """
        *under, last = self.adapters or (None,)
        network = self.base_network(tokenizer, is_exact=bool(under))
        for folder in under:
            network = merge(self.adapted(network, folder), folder)
        if under:
            network = rounded(network, self._unpacked())
        return self.adapted(network, last) if last else network

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

    def adapted(self, network: Any, folder: Path) -> Any:
        """A network with one of the adapters on top.

        Raises:
            ModelError: the adapter cannot be read or does not fit the base.
        """
        return _with_adapter(network, folder, self.base).eval()

    def open(self, options: EncodeOptions) -> AdaptedModel:
        """The model ready to answer, asked as it was taught; `options` say the rest."""
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
    whole = lineage.with_merged(adapters)
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
    order, found = lineage.with_merged(folders), fingerprint(base)
    for folder in order:
        lineage.require_base(folder, found, chosen)
    return SavedModel(settings.model_copy(update={"base_model": chosen}), base, order)


def merge(network: Any, folder: Path) -> Any:
    """Add an adapter's weights to those of its base; the result is a plain Transformers model.

    Raises:
        ModelError: this kind of adapter cannot be merged, or its weights are not numbers.
    """
    config = network.peft_config[network.active_adapter]
    is_apart = config.is_prompt_learning or config.peft_type == bottleneck.PEFT_TYPE
    if is_apart or not hasattr(network.base_model, "merge_and_unload"):
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise ModelError(
            f"{folder}: an adapter of type {kind} adds no weights to those of "
            "the base model, so it cannot be merged. Serve the base model with this adapter."
        )
    is_tied = network.config.get_text_config().tie_word_embeddings
    try:
        merged = network.merge_and_unload(safe_merge=True)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        raise ModelError(f"{folder}: this adapter cannot be merged: {error}") from error
    if is_tied:
        _tie_again(merged)
    return merged


def _tie_again(merged: Any) -> None:
    """PEFT gives embeddings and head a copy each where rows of new tokens were trained."""
    head, embeddings = merged.get_output_embeddings(), merged.get_input_embeddings()
    if head.weight.data_ptr() != embeddings.weight.data_ptr() and torch.equal(
        head.weight, embeddings.weight
    ):
        merged.config.get_text_config().tie_word_embeddings = True
        merged.tie_weights()


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
        f"{folder} is neither a workspace nor an adapter: it {lineage.missing(folder)} "
        "Give a workspace, or the folder that training wrote (output_dir)."
    )


def _resolve_base(name: str, folder: Path, *, is_given: bool) -> Path:
    try:
        return resolve(name)
    except ModelError as error:
        where = "--base" if is_given else f"the base model of {folder / ADAPTER_FILE}"
        hint = "" if is_given else " If it was moved, say where with --base."
        told = str(error).removeprefix("model.base_model: ")
        raise ModelError(f"{where}: {told}{hint}") from error


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


def _with_adapter(network: Any, folder: Path, base: Path) -> Any:
    from peft import PeftModel

    bottleneck.register()
    try:
        adapted = PeftModel.from_pretrained(network, folder)
        # Read once more for what the first call only warns of: names that fit nothing.
        found = adapted.load_adapter(
            str(folder), adapted.active_adapter, torch_device=str(network.device)
        )
    except UNREADABLE as error:
        raise ModelError(
            f"{folder}: this adapter cannot be loaded onto {base}: {_short(error)}. It is damaged, "
            "or was trained on another base model."
        ) from error
    if not adapted.active_peft_config.is_prompt_learning:  # its one weight is read another way
        _require_all_read([*found.missing_keys, *found.unexpected_keys], folder, base)
    return adapted


def _require_all_read(wrong: Sequence[str], folder: Path, base: Path) -> None:
    wrong = [name for name in wrong if not any(part in name for part in COPIES)]
    if wrong:
        raise ModelError(
            f"{folder}: this adapter does not fit {base}: {wrong[0]} is missing or belongs to "
            f"another model ({len(wrong)} such weights). Give the base it was trained on."
        )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
