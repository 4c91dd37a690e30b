"""Finds layers by what they are, never by an architecture's name."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import nn
from transformers.pytorch_utils import Conv1D

from llama_factory.core.errors import ModelError, suggest

LINEAR = (nn.Linear, Conv1D)


def linear_layers(model: Any) -> dict[str, nn.Module]:
    """All linear layers but the output head, by full name."""
    head = model.get_output_embeddings()
    named = model.named_modules()
    return {name: m for name, m in named if isinstance(m, LINEAR) and m is not head}


def causal_of(network: Any) -> Any:
    """The Transformers model with its output head, out of whatever adapter is around it."""
    return network.get_base_model() if hasattr(network, "get_base_model") else network


def backbone_of(network: Any) -> Any:
    """The same model without its output head."""
    causal = causal_of(network)
    return getattr(causal, causal.base_model_prefix)


def has_dropout(network: Any) -> bool:
    """Whether outputs differ from pass to pass in training mode."""
    options = network.config.to_dict().items()
    shares = [v for key, v in options if "drop" in key and not key.startswith("classifier")]
    shares += [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    return any(isinstance(share, float) and share > 0 for share in shares)


def key_width(config: Any) -> int:
    """Numbers in a token's keys and values in one layer of attention.

    Args:
        config: of the text model.
    """
    num_heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    return int(2 * width * (getattr(config, "num_key_value_heads", None) or num_heads))


def linear_names(model: Any) -> list[str]:
    """Last parts of the names of all linear layers but the output head, sorted."""
    return sorted({last_part(name) for name in linear_layers(model)})


def num_inputs_outputs(layer: Any) -> tuple[int, int]:
    """Features that a linear layer takes and gives; a packed weight has lost its shape."""
    if isinstance(layer, Conv1D):
        rows, columns = layer.weight.shape
        return rows, columns
    return layer.in_features, layer.out_features


def last_part(name: str) -> str:
    """`q_proj` of `model.layers.0.self_attn.q_proj`."""
    return name.rsplit(".", 1)[-1]


def is_named(full: str, name: str) -> bool:
    """Whether a layer's full name is `name` or ends with it (`self_attn.q_proj`)."""
    return full == name or full.endswith(f".{name}")


def target_names(model: nn.Module, targets: Literal["all"] | Sequence[str]) -> list[str]:
    """The linear layers to adapt.

    Raises:
        ModelError: a name matches no linear layer; the message lists those that exist.
    """
    if targets == "all":
        return linear_names(model)
    if not targets:
        raise ModelError("adapter.targets is empty, so nothing would train. Name layers, or `all`.")
    require_layers(targets, linear_layers(model), "adapter.targets", "linear layer")
    return sorted(targets)


def require_layers(names: Iterable[str], layers: Iterable[str], setting: str, kind: str) -> None:
    """Make sure that every name is the end of some layer's name.

    Args:
        names: as the user wrote them.
        layers: full names of the layers that may be meant.
        setting: where the names stand.
        kind: what they must be, for the message.

    Raises:
        ModelError: one is not; the message lists what exists.
    """
    full = list(layers)
    known = sorted({last_part(name) for name in full})
    for name in names:
        if not any(is_named(each, name) for each in full):
            raise ModelError(
                f"{setting}: '{name}' is no {kind} of this model."
                f"{suggest(name, known)} It has: {', '.join(known)}."
            )


def require_modules(model: nn.Module, names: Iterable[str], setting: str) -> None:
    """Make sure that every name is a module with weights of its own (embeddings, head, norms).

    Raises:
        ModelError: one is not; the message lists what exists.
    """
    own = (n for n, m in model.named_modules() if n and any(True for _ in m.parameters(False)))
    require_layers(names, own, setting, "module with weights")


def repeated_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's stack of decoder layers, with its name: the longest list of modules."""
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ModelError(
            "this model has no list of decoder layers, so freeze_layers cannot count them."
        )
    return max(lists, key=lambda item: len(item[1]))


def last_linear_names(model: Any) -> list[str]:
    """The last linear layer of each part of a decoder layer, of those that give the model's width.

    They are what attention and feed-forward blocks add to the stream (`o_proj`, `down_proj`).

    Raises:
        ModelError: there is none; the message lists what exists.
    """
    width = model.config.get_text_config().hidden_size
    _, blocks = repeated_blocks(model)
    found = set()
    for part_name, part in blocks[0].named_children():
        inside = [(name, m) for name, m in part.named_modules() if isinstance(m, LINEAR)]
        if inside and num_inputs_outputs(inside[-1][1])[1] == width:
            name = inside[-1][0]
            found.add(f"{part_name}.{name}" if name else part_name)
    if not found:
        raise ModelError(
            "adapter.targets: paper finds no attention or feed-forward block in this model's "
            f"layers. Name linear layers. It has: {', '.join(linear_names(model))}."
        )
    return sorted(found)


def require_layers_left(num_frozen: int, num_layers: int) -> None:
    """Make sure that freezing leaves layers to train.

    Raises:
        ModelError: nothing would be left.
    """
    if num_frozen >= num_layers:
        raise ModelError(
            f"model.freeze_layers is {num_frozen} and the model has {num_layers} layers, so "
            f"nothing would train. Give at most {num_layers - 1}."
        )


def unadapted(model: nn.Module, freeze_layers: int, exclude: Sequence[str]) -> str | None:
    """A pattern of the full names of layers that carry no adapter, as PEFT takes it.

    Args:
        model: the base model.
        freeze_layers: how many of the lowest decoder layers.
        exclude: linear layers by name.

    Raises:
        ModelError: a name matches nothing, or nothing would be left to train.
    """
    require_layers(exclude, linear_layers(model), "adapter.exclude", "linear layer")
    patterns = [rf"(.*\.)?{re.escape(name)}" for name in exclude]
    if freeze_layers:
        name, blocks = repeated_blocks(model)
        require_layers_left(freeze_layers, len(blocks))
        frozen = "|".join(map(str, range(freeze_layers)))
        patterns.append(rf"{re.escape(name)}\.({frozen})\..*")
    return "|".join(patterns) or None


def adapted_layers(
    model: nn.Module, targets: Sequence[str], pattern: str | None
) -> dict[str, nn.Module]:
    """The linear layers that an adapter changes, by full name.

    Args:
        model: the base model.
        targets: names of linear layers.
        pattern: what `unadapted` returned.

    Raises:
        ModelError: there are none.
    """
    found = {
        name: layer
        for name, layer in linear_layers(model).items()
        if any(is_named(name, target) for target in targets)
        and not (pattern and re.fullmatch(pattern, name))
    }
    if not found:
        raise ModelError(
            f"adapter.targets ({', '.join(targets)}) and what is left out by adapter.exclude and "
            "model.freeze_layers leave no layer to adapt. Leave out less."
        )
    return found


def freeze_lowest(network: nn.Module, num_layers: int) -> None:
    """Let nothing in the lowest decoder layers train.

    Raises:
        ModelError: nothing would be left to train.
    """
    if num_layers == 0:
        return
    _, blocks = repeated_blocks(network)
    require_layers_left(num_layers, len(blocks))
    for block in list(blocks)[:num_layers]:
        block.requires_grad_(False)
