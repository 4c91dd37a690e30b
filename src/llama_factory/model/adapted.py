"""A base model made trainable: with an adapter, or with its own weights free to change."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from llama_factory.core.errors import ModelError
from llama_factory.model import new_tokens, provenance, value_head
from llama_factory.model.adapters import ADAPTERS, Adapter
from llama_factory.model.base import (
    fingerprint,
    load_network,
    load_tokenizer,
    rounded,
    tokenizer_of,
)
from llama_factory.model.chat import prompt_format
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.dtypes import AS_LOADED, Precision, choose, settle
from llama_factory.model.new_tokens import NewTokens
from llama_factory.model.provenance import Provenance
from llama_factory.model.quantization_aware import prepare, write_packed
from llama_factory.model.settings import ModelSettings, Rounding
from llama_factory.model.sharding import device_of
from llama_factory.model.source import resolve, resolve_tokenizer
from llama_factory.model.wrapping import with_merged


@dataclass(frozen=True)
class AdaptedModel:
    """A base model that carries a trainable adapter, or whose own weights train.

    Attributes:
        network: PEFT model of which only the adapter's weights require a gradient; or, with the
            adapters `full` and `freeze`, the Transformers model itself.
        tokenizer: the base model's own.
        fingerprint: identifies the base model's files; adapters fit one base only.
        options: how rows become tokens for it.
        precision: the number format it computes in.
        merged: adapters that the base model carries in its weights, in their order.
        rounding: its layers compute with weights that are rounded so, see `quantization_aware`.
        own: names of the weights that it brings to train; a run may freeze some of them.
        parts: by name of a weight of which a run trains a part only, 1 at that part and else 0.
    """

    network: Any
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    options: EncodeOptions
    precision: Precision = AS_LOADED
    merged: tuple[Path, ...] = ()
    rounding: Rounding = "none"
    own: frozenset[str] = field(init=False)
    parts: dict[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Look at what trains before any run freezes a part of it."""
        object.__setattr__(self, "own", frozenset(self.trainable()))

    @property
    def device(self) -> torch.device:
        """Where the weights are computed with."""
        return device_of(next(self.network.parameters()))

    def trainable(self) -> dict[str, nn.Parameter]:
        """The trained weights by name."""
        named = self.network.named_parameters()
        return {name: weight for name, weight in named if weight.requires_grad}

    def save(self, folder: Path) -> None:
        """Write what was trained: a PEFT folder, or a whole Transformers model with tokenizer.

        How it is asked lies beside it, so that a later change of settings does not show.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.options.format.filled(self.tokenizer).save(folder)
        if not isinstance(self.network, PeftModel):
            self.tokenizer.save_pretrained(folder)
            weights = self.network.state_dict().items()
            own = {name: w for name, w in weights if not name.startswith(value_head.ATTRIBUTE)}
            self.network.save_pretrained(folder, state_dict=own)
            value_head.save(self.network, folder)
            return
        provenance.record(folder, Provenance(self.fingerprint, self.merged))
        # Rows of new tokens are the adapter's own: the whole embeddings need no copy.
        self.network.save_pretrained(folder, save_embedding_layers=False)
        value_head.save(self.network, folder)

    def save_packed(self, folder: Path) -> None:
        """Write a model that was trained with rounded weights as one that holds them packed.

        Its layers hold them so afterwards.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.options.format.filled(self.tokenizer).save(folder)
        write_packed(self.network, self.tokenizer, self.rounding, folder)


def adapt(
    settings: ModelSettings,
    parent: Path | None,
    *,
    options: EncodeOptions,
    seed: int,
    merged: Sequence[Path] = (),
    in_place: bool = False,
) -> AdaptedModel:
    """Load the base model and give it an adapter: a copy of the parent's, or a fresh one.

    Args:
        settings: which base, which adapter.
        parent: the parent version's adapter folder, None for a fresh adapter.
        options: how rows become tokens for it.
        seed: of fresh adapter weights.
        merged: folders of adapters that are added to the base weights first, in this order; what
            is trained then fits the base only together with them.
        in_place: leave the base model's weights in their files, see `load_network`.

    Raises:
        ModelError: the model cannot be read, this machine cannot run it, or the parent's adapter
            does not fit the settings.
    """
    adapter, freeze_layers = settings.adapter, settings.freeze_layers
    adapter.require_hardware()
    if parent is not None:
        adapter.require_fits(parent)
    folder = resolve(settings.base_model)
    _require_trainable(folder, adapter)
    saved = [*merged, *([parent] if parent else [])]
    tokenizer, new, options = tokens_of(settings, parent, options=options, merged=merged)
    network = load_network(folder, settings, is_exact=bool(merged), in_place=in_place)
    has_rows = any(map(provenance.has_rows, saved))
    untaught = {*new.ids}
    if settings.resize_vocab or new.ids or has_rows:
        rows = new_tokens.make_room(network, tokenizer)
        untaught.update([] if has_rows else rows)
    network = _with_merged(network, merged, settings)
    new_tokens.start_at_pieces(network, new)
    if parent is not None:
        network = adapter.resume(network, parent, freeze_layers=freeze_layers)
        value_head.load(network, parent)
    else:
        network = adapter.apply(network, freeze_layers=freeze_layers, seed=seed)
        if untaught:
            adapter.train_tokens(network, sorted(untaught))
    rounding = settings.quantization_aware
    network, precision = prepare(network, rounding), choose(settings.dtype)
    settle(network, precision)
    mark = fingerprint(folder)
    return AdaptedModel(network, tokenizer, mark, options, precision, tuple(merged), rounding)


def tokens_of(
    settings: ModelSettings,
    parent: Path | None,
    *,
    options: EncodeOptions,
    merged: Sequence[Path] = (),
) -> tuple[PreTrainedTokenizerBase, NewTokens, EncodeOptions]:
    """The tokenizer that `adapt` gives a model, what is new in it, and how rows become tokens.

    Raises:
        ModelError: there is none, or tokens are new to an adapter that goes on.
    """
    saved = [*merged, *([parent] if parent else [])]
    tokenizer = tokenizer_of(settings, resolve_tokenizer(settings.base_model), saved)
    new = _new_tokens(settings, tokenizer, parent)
    words = [*_words_of(saved), *settings.new_special_tokens]
    return tokenizer, new, _allowing(options, words)


def _words_of(saved: Sequence[Path]) -> list[str]:
    """Special tokens that the rows of saved adapters could write."""
    found = filter(None, map(prompt_format.kept, saved))
    return [word for each in found for word in each.text_tokens]


def _allowing(options: EncodeOptions, words: Sequence[str]) -> EncodeOptions:
    return replace(options, format=options.format.allowing(words)) if words else options


def asked_as_taught(model: AdaptedModel, weights: Path | None) -> AdaptedModel:
    """The same model, asked as the weights that it holds were taught to be; a base as usual.

    Args:
        model: holds the weights.
        weights: folder that they came from; None for the base model.
    """
    if weights is None:
        return model
    how = prompt_format.read(weights, model.options.format, model.tokenizer)
    return replace(model, options=replace(model.options, format=how))


def _new_tokens(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, parent: Path | None
) -> NewTokens:
    new = new_tokens.add(tokenizer, settings.new_tokens, settings.new_special_tokens)
    if new.ids and parent is not None:
        words = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(list(new.ids))))
        raise ModelError(
            f"model.new_tokens: {words} are new to the adapter in {parent}, which goes on with the "
            "tokens that it was trained with. Set model.create_new_adapter, or leave them out."
        )
    return new


def _require_trainable(folder: Path, adapter: Adapter) -> None:
    """Packed weights of the base model itself have no gradient."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if adapter.peft_type is None and "quantization_config" in config:
        raise ModelError(
            f"model.base_model: {folder} is quantised, and adapter type "
            f"{ADAPTERS.name_of(adapter)} trains the base model's own weights, which packed ones "
            "cannot. Name the model it was quantised from, or train an adapter beside it "
            "(adapter type lora)."
        )


def _with_merged(network: Any, merged: Sequence[Path], settings: ModelSettings) -> Any:
    """The network with the weights of adapters added to its own, rounded once at the end."""
    if not merged:
        return network
    if getattr(network, "is_quantized", False):
        raise ModelError(
            f"model.adapter_paths: {merged[0]} cannot be merged into packed weights without "
            "rounding what was learned. Make one model of base and adapters first (llama-factory "
            "export), and name that as model.base_model."
        )
    return rounded(with_merged(network, merged), settings)


def load_teacher(name: str, student: AdaptedModel) -> Any:
    """The network of a second model, frozen, where the student is and in its number format.

    Raises:
        ModelError: it cannot be read, or its tokenizer is not the student's.
    """
    folder = resolve(name)
    known, own = load_tokenizer(folder).get_vocab(), student.tokenizer.get_vocab()
    if known != own:
        shared = len(known.items() & own.items())
        raise ModelError(
            f"training.objective.teacher: {name} reads text in other tokens than the model that is "
            f"taught: {shared} of {len(own)} tokens are the same. Take a teacher of the same "
            "family, or teach its answers with the objective sft."
        )
    settings = ModelSettings.model_validate({"base_model": name, "dtype": student.precision.name})
    network = load_network(folder, settings)
    return network.requires_grad_(False).to(student.device)
