"""Base model + adapter + tokenizer, ready to train or to answer."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from llama_factory.core.errors import ModelError
from llama_factory.model import lineage, new_tokens, value_head
from llama_factory.model.adapters import ADAPTERS, Adapter
from llama_factory.model.attention import implementation
from llama_factory.model.chat import prompt
from llama_factory.model.chat.masks import EncodeOptions
from llama_factory.model.chat.naming import give_template
from llama_factory.model.chat.prompt import PromptFormat
from llama_factory.model.lineage import TOKENIZER_FILE, Lineage
from llama_factory.model.new_tokens import NewTokens
from llama_factory.model.precision import AS_LOADED, Precision, choose, settle
from llama_factory.model.settings import ModelSettings
from llama_factory.model.source import resolve


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
        own: names of the weights that it brings to train; a run may freeze some of them.
        parts: by name of a weight of which a run trains a part only, 1 at that part and else 0.
    """

    network: Any
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    options: EncodeOptions
    precision: Precision = AS_LOADED
    merged: tuple[Path, ...] = ()
    own: frozenset[str] = field(init=False)
    parts: dict[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Look at what trains before any run freezes a part of it."""
        object.__setattr__(self, "own", frozenset(self.trainable()))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

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
        lineage.record(folder, Lineage(self.fingerprint, self.merged))
        # Rows of new tokens are the adapter's own: the whole embeddings need no copy.
        self.network.save_pretrained(folder, save_embedding_layers=False)
        value_head.save(self.network, folder)


def adapt(
    settings: ModelSettings,
    parent: Path | None,
    *,
    options: EncodeOptions,
    seed: int,
    merged: Sequence[Path] = (),
) -> AdaptedModel:
    """Load the base model and give it an adapter: a copy of the parent's, or a fresh one.

    Args:
        settings: which base, which adapter.
        parent: the parent version's adapter folder, None for a fresh adapter.
        options: how rows become tokens for it.
        seed: of fresh adapter weights.
        merged: folders of adapters that are added to the base weights first, in this order; what
            is trained then fits the base only together with them.

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
    tokenizer = tokenizer_of(settings, folder, saved)
    new = _new_tokens(settings, tokenizer, parent)
    options = _allowing(options, [*_words_of(saved), *settings.new_special_tokens])
    network = load_network(folder, settings, is_exact=bool(merged))
    has_rows = any(map(lineage.has_rows, saved))
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
    precision = choose(settings.dtype)
    settle(network, precision)
    return AdaptedModel(network, tokenizer, fingerprint(folder), options, precision, tuple(merged))


def _words_of(saved: Sequence[Path]) -> list[str]:
    """Special tokens that the rows of saved adapters could write."""
    found = filter(None, map(prompt.kept, saved))
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
    how = prompt.read(weights, model.options.format, model.tokenizer)
    return replace(model, options=replace(model.options, format=how))


def tokenizer_of(
    settings: ModelSettings,
    base: Path,
    adapters: Sequence[Path],
    kept: PromptFormat | None = None,
) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside the last adapter that has one, else the base model's.

    Args:
        settings: which template it gets.
        base: the base model's folder.
        adapters: in their order.
        kept: how the last of them was taught to be asked, which counts more than the settings.
    """
    beside = [path for path in adapters if (path / TOKENIZER_FILE).exists()]
    return load_tokenizer(
        beside[-1] if beside else base,
        trust_remote_code=settings.trust_remote_code,
        template=settings.template,
        replaces=settings.replace_template,
        kept=kept,
    )


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
    from llama_factory.model.saved import merge
    from llama_factory.model.wrapping import wrap_saved

    if merged and getattr(network, "is_quantized", False):
        raise ModelError(
            f"model.adapter_paths: {merged[0]} cannot be merged into packed weights without "
            "rounding what was learned. Make one model of base and adapters first (llama-factory "
            "export), and name that as model.base_model."
        )
    for folder in merged:
        network = merge(wrap_saved(network, folder, freeze_layers=0), folder)
    return rounded(network, settings) if merged else network


def rounded(network: Any, settings: ModelSettings) -> Any:
    """A network that was read exactly, with its weights in the format of the settings.

    Buffers stay: positions are computed in float32 whatever the weights are.
    """
    dtype = _loaded_dtype(settings)
    for weight in network.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    network.config.dtype = dtype
    return network


def load_network(folder: Path, settings: ModelSettings, *, is_exact: bool = False) -> Any:
    """The base model alone, in its number format, on the CPU or the GPU that is there.

    Args:
        folder: where its files are.
        settings: number format, attention.
        is_exact: read weights in float32, to add to them before they are `rounded`.

    Raises:
        ModelError: the folder's files do not make a causal language model, or this machine cannot
            pack its weights or compute its attention as asked.
    """
    transformers_logging.disable_progress_bar()
    try:
        network = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if is_exact else _loaded_dtype(settings),
            attn_implementation=implementation(settings.attention, pick_dtype(settings.dtype)),
            trust_remote_code=settings.trust_remote_code,
            **_packed(settings.adapter),
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: this model cannot be loaded: {error}") from error
    network.eval()
    is_there = getattr(network, "is_quantized", False) or not torch.cuda.is_available()
    return network if is_there else network.to("cuda")


def _packed(adapter: Adapter) -> dict[str, Any]:
    """Options that pack the weights as they are read, straight onto the GPU."""
    adapter.require_hardware()
    config = adapter.quantization()
    return {"quantization_config": config, "device_map": {"": 0}} if config else {}


def _loaded_dtype(settings: ModelSettings) -> torch.dtype:
    """Weights that train are read in float32; what is frozen, as the settings say."""
    precision = choose(settings.dtype)
    is_frozen = settings.adapter.peft_type is not None
    return precision.dtype if is_frozen or precision.is_pure else torch.float32


def load_tokenizer(
    folder: Path,
    *,
    trust_remote_code: bool = False,
    template: str | None = None,
    replaces: bool = False,
    kept: PromptFormat | None = None,
) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a chat template and a padding token in any case.

    Args:
        folder: where its files are.
        trust_remote_code: run code that comes with them.
        template: a named template for tokenizers that have none.
        replaces: use the named template in any case.
        kept: how weights were taught to be asked: its template and end token count most.

    Raises:
        ModelError: there is none, or no chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no tokenizer can be loaded: {error}") from error
    if kept is not None and kept.template:
        kept.give_to(tokenizer)
    else:
        give_template(tokenizer, template, where=str(folder), replaces=replaces)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def pick_dtype(name: str) -> torch.dtype:
    """The format of frozen weights that a setting asks for."""
    return choose(name).dtype


def fingerprint(folder: Path) -> str:
    """Identifies a base model by its config and the size, start and end of each weight file."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = file.seek(0, 2)
            digest.update(f"{path.name} {size}".encode())
            for start in (0, max(0, size - 2**20)):
                file.seek(start)
                digest.update(file.read(2**20))
    return digest.hexdigest()
