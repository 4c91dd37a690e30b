"""LoRA matrices as they were saved, for those who compute with them without PEFT's layers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from llama_factory.core.errors import ModelError
from llama_factory.model.peft_extensions import register_bottleneck
from llama_factory.model.provenance import WEIGHTS_FILE

PREFIX = "base_model.model."
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)

STARTS = (True, False, "gaussian", "orthogonal", "eva", "lora_ga")
"""Ways to begin (`init_lora_weights`) that leave the base model's weights as they are."""


@dataclass(frozen=True)
class LoraMatrices:
    """What LoRA adds to one linear layer: y += (x down^T) up^T.

    Attributes:
        down: [rank, in].
        up: [out, rank], with the scaling in it.
    """

    down: Tensor
    up: Tensor


def read_plain_lora(folder: Path) -> dict[str, LoraMatrices] | None:
    """The matrices of a saved adapter by full name of their layers.

    Returns:
        None where it is no LoRA, or one that changes more than products of linear layers: with
        magnitudes (DoRA), biases, whole modules, embeddings, or changed base weights.

    Raises:
        ModelError: it cannot be read.
    """
    register_bottleneck()
    try:
        config = PeftConfig.from_pretrained(str(folder))
        if not isinstance(config, LoraConfig) or not _is_plain(config):
            return None
        weights = load_file(folder / WEIGHTS_FILE)
        return _matrices(weights, config)
    except UNREADABLE as error:
        raise ModelError(f"{folder}: this adapter cannot be read: {error}") from error


def _is_plain(config: LoraConfig) -> bool:
    more = (
        "use_dora",
        "lora_bias",
        "modules_to_save",
        "trainable_token_indices",
        "layer_replication",
        "use_qalora",
        "alora_invocation_tokens",
        "arrow_config",
        "target_parameters",
        "use_bdlora",
        "velora_config",
    )
    has_more = any(getattr(config, name, None) for name in more)
    return not has_more and config.bias == "none" and config.init_lora_weights in STARTS


def _matrices(weights: Mapping[str, Tensor], config: LoraConfig) -> dict[str, LoraMatrices] | None:
    names = {key.removesuffix(DOWN) for key in weights if key.endswith(DOWN)}
    if {f"{name}{part}" for name in names for part in (DOWN, UP)} != set(weights):
        return None
    matrices = {}
    for name in names:
        down, up = weights[f"{name}{DOWN}"], weights[f"{name}{UP}"]
        if down.dim() != 2 or up.dim() != 2:
            return None
        module = name.removeprefix(PREFIX)
        scale = _scale(config, module, down.shape[0])
        matrices[module] = LoraMatrices(down, up.float() * scale)
    return matrices


def _scale(config: LoraConfig, module: str, rank: int) -> float:
    patterns: dict[str, Any] = config.alpha_pattern or {}
    alpha = patterns.get(get_pattern_key(patterns.keys(), module), config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))
