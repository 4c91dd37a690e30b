"""Finds layers by what they are, never by an architecture's name."""

from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from llama_factory.core.errors import ModelError, suggest

LINEAR = (nn.Linear, Conv1D)


def linear_names(model: Any) -> list[str]:
    """Last parts of the names of all linear layers but the output head, sorted."""
    head = model.get_output_embeddings()
    found = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, LINEAR) and module is not head
    }
    return sorted(found)


def target_names(model: nn.Module, targets: Literal["all"] | list[str]) -> list[str]:
    """The linear layers to adapt.

    Raises:
        ModelError: a name matches no linear layer; the message lists those that exist.
    """
    known = linear_names(model)
    if targets == "all":
        return known
    for name in targets:
        if name not in known:
            raise ModelError(
                f"adapter.targets: '{name}' is no linear layer of this model."
                f"{suggest(name, known)} It has: {', '.join(known)}."
            )
    return sorted(targets)


def repeated_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's stack of decoder layers, with its name: the longest list of modules."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ModelError(
            "this model has no list of decoder layers, so freeze_layers cannot count them."
        )
    return max(lists, key=lambda item: len(item[1]))


def layers_above(model: nn.Module, freeze_layers: int) -> dict[str, Any]:
    """PEFT options that adapt only the layers above the lowest `freeze_layers`.

    Raises:
        ModelError: nothing would be left to train.
    """
    if freeze_layers == 0:
        return {}
    name, blocks = repeated_blocks(model)
    if freeze_layers >= len(blocks):
        raise ModelError(
            f"model.freeze_layers is {freeze_layers} and the model has {len(blocks)} layers, so "
            f"nothing would train. Give at most {len(blocks) - 1}."
        )
    adapted = list(range(freeze_layers, len(blocks)))
    return {"layers_to_transform": adapted, "layers_pattern": name.rsplit(".", 1)[-1]}
