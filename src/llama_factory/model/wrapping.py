"""Adapters on a network, by PEFT: put on, read, merged, switched off, with errors for users."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
)
from peft.utils.other import set_additional_trainable_modules
from safetensors import SafetensorError
from torch import nn

from llama_factory.core.errors import ModelError
from llama_factory.model.layers import freeze_lowest
from llama_factory.model.new_tokens import token_layers
from llama_factory.model.peft_extensions import BOTTLENECK, register_bottleneck

UNFIT = (OSError, ValueError, KeyError, RuntimeError, TypeError, SafetensorError)
"""What PEFT raises for an adapter that is damaged or does not fit a model."""
COPIES = (".modules_to_save.", ".original_module.", ".base_layer.")
"""Parts of names under which PEFT writes resized or adapted embeddings of the base once more."""


def wrap(
    model: nn.Module,
    config: PeftConfig,
    seed: int,
    *,
    build: Callable[[Any, Any], Any] = get_peft_model,
) -> Any:
    """The model with a fresh adapter whose weights depend on the seed alone.

    Args:
        model: the base model.
        config: PEFT's, of the adapter.
        seed: of the new weights.
        build: makes the PEFT model.

    Raises:
        ModelError: PEFT cannot adapt these layers in this way.
    """
    with _seeded(seed), _refusing(f"this model cannot carry a {_type_of(config)} adapter"):
        return build(model, config)


def wrap_saved(
    model: nn.Module, folder: Path, *, is_trainable: bool = False, freeze_layers: int = 0
) -> Any:
    """The model with a saved adapter.

    Args:
        model: the base model.
        folder: a PEFT folder.
        is_trainable: let the adapter's weights train; else they are frozen, to answer or to merge.
        freeze_layers: the lowest n layers, whose adapter weights do not train in any case.

    Raises:
        ModelError: the adapter is damaged or does not fit the model.
    """
    register_bottleneck()
    base = getattr(model, "name_or_path", "")
    try:
        config = PeftConfig.from_pretrained(str(folder))
        can_train = is_trainable and not config.is_prompt_learning  # PEFT answers with those only
        network = PeftModel.from_pretrained(model, str(folder), is_trainable=can_train)
    except UNFIT as error:
        raise ModelError(
            f"{folder}: this adapter cannot be loaded onto {base}: {_short(error)}. It is damaged, "
            "or was trained on another base model."
        ) from error
    if wrong := unread(network, folder):
        raise ModelError(
            f"{folder}: this adapter does not fit {base}: {wrong[0]} is missing or belongs to "
            f"another model ({len(wrong)} such weights). Give the base it was trained on."
        )
    if is_trainable and config.is_prompt_learning:
        network.prompt_encoder.requires_grad_(True)
    if is_trainable:
        freeze_lowest(network.get_base_model(), freeze_layers)
    return network


def merge(network: Any, folder: Path) -> Any:
    """Add an adapter's weights to those of its base.

    Args:
        network: a PEFT model; it is used up.
        folder: where its adapter was read from, for messages.

    Returns:
        A plain Transformers model.

    Raises:
        ModelError: this kind of adapter cannot be merged, or its weights are not numbers.
    """
    config = network.peft_config[network.active_adapter]
    is_beside = config.is_prompt_learning or config.peft_type == BOTTLENECK
    if is_beside or not hasattr(network.base_model, "merge_and_unload"):
        raise ModelError(
            f"{folder}: an adapter of type {_type_of(config)} adds no weights to those of "
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


def with_merged(network: Any, folders: Sequence[Path]) -> Any:
    """The base model with saved adapters merged into it, one after the other.

    Raises:
        ModelError: one is damaged, does not fit, or cannot be merged.
    """
    for folder in folders:
        network = merge(wrap_saved(network, folder), folder)
    return network


def _tie_again(merged: Any) -> None:
    """PEFT gives embeddings and head a copy each where rows of new tokens were trained."""
    head, embeddings = merged.get_output_embeddings(), merged.get_input_embeddings()
    if head.weight.data_ptr() != embeddings.weight.data_ptr() and torch.equal(
        head.weight, embeddings.weight
    ):
        merged.config.get_text_config().tie_word_embeddings = True
        merged.tie_weights()


def train_rows(network: PeftModel, ids: Sequence[int], *, trained_whole: Sequence[str]) -> None:
    """Let some rows of the embeddings and of the output head train beside a LoRA adapter.

    Args:
        network: carries the adapter; its embeddings have these rows.
        ids: of the tokens.
        trained_whole: modules of which every row trains already.

    Raises:
        ModelError: the output head adds a bias, which PEFT would leave out.
    """
    base = network.get_base_model()
    layers = token_layers(base)
    biased = [name for name, layer in layers.items() if getattr(layer, "bias", None) is not None]
    if biased:
        raise ModelError(
            f"{biased[0]} of this model adds a bias, and rows of new tokens cannot train beside "
            "one. Use adapter.type full, or leave model.new_tokens out."
        )
    if base.get_input_embeddings().weight is base.get_output_embeddings().weight:
        layers = dict(list(layers.items())[:1])  # PEFT trains the tied head with it
    rows = {name: list(ids) for name in layers if name not in trained_whole}
    if not rows:
        return
    config = network.peft_config[network.active_adapter]
    config.trainable_token_indices = rows
    alone = copy.copy(config)
    alone.modules_to_save = None  # these are there already
    with _refusing("this model cannot train the rows of new tokens"):
        set_additional_trainable_modules(
            network.base_model, alone, base.config.to_dict(), network.active_adapter
        )


def unread(network: PeftModel, folder: Path, adapter: str = "default") -> list[str]:
    """Weights that a saved adapter and the network do not share: PEFT only warns of them.

    Args:
        network: after it loaded the adapter.
        folder: the saved adapter.
        adapter: its name in the network.
    """
    names = load_peft_weights(str(folder), device="cpu")
    read = {name for name in names if not any(part in name for part in COPIES)}
    own = get_peft_model_state_dict(network, adapter_name=adapter, save_embedding_layers=False)
    return sorted(read ^ set(own))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed for a while, leaving the process's own random numbers alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Tell a user in one line what PEFT refuses.

    Raises:
        ModelError: PEFT raised.
    """
    try:
        yield
    except UNFIT as error:
        raise ModelError(f"{what}: {_short(error)}") from error


def _short(error: Exception) -> str:
    """What PEFT raised, in one line."""
    return " ".join(str(error).split())[:300]


def _type_of(config: PeftConfig) -> str:
    """PEFT's name for a kind of adapter, such as `LORA`."""
    return str(getattr(config.peft_type, "value", config.peft_type))


SWITCHES = ("_disable_adapters", "_adapters_disabled")
"""What PEFT's layers, and its models with trained prompts, look at. Its own way to set them also
changes which weights train, and takes longer than a forward pass of a small model on a GPU."""


def switches(network: nn.Module) -> list[tuple[nn.Module, str]]:
    """Every module that can go without its adapter, and what it looks at."""
    return [
        (module, name)
        for module in network.modules()
        for name in SWITCHES
        if name in vars(module) or hasattr(type(module), name)
    ]


@contextmanager
def switched_off(found: Sequence[tuple[nn.Module, str]]) -> Iterator[None]:
    """The base model alone: modules without their adapters."""
    before = [getattr(module, name) for module, name in found]
    try:
        for module, name in found:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(found, before, strict=True):
            setattr(module, name, value)


def without_adapter(network: Any) -> AbstractContextManager[None]:
    """The base model of a network for as long as the context lasts."""
    return switched_off(switches(network))
