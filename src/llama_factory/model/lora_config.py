"""What the settings of saved adapters say about joining them. Loads no weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model.provenance import ADAPTER_FILE

BESIDE = {
    "use_dora": "DoRA",
    "lora_bias": "a bias in its products",
    "modules_to_save": "modules trained as a whole",
    "trainable_token_indices": "rows of new tokens",
    "alora_invocation_tokens": "an activation by tokens (aLoRA)",
    "layer_replication": "repeated layers",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "target_parameters": "products on parameters outside of linear layers",
    "megatron_config": "layers of Megatron",
}
"""By PEFT's name of a value in adapter_config.json: what an adapter with it does besides adding a
product to the weights of linear layers."""
MOVED_BASE = ("pissa", "olora", "corda", "loftq")
"""Starts that change the weights of the base model itself, as PEFT saves them."""


def unjoinable(folder: Path) -> str:
    """What a saved adapter does besides adding products to linear layers; empty for nothing.

    Raises:
        ModelError: its settings cannot be read.
    """
    config = read_lora_config(folder)
    if config.get("peft_type") != "LORA":
        return f"is of the kind {config.get('peft_type')}"
    if config.get("bias", "none") != "none":
        return f"has trained biases (bias: {config['bias']})"
    for name, what in BESIDE.items():
        if config.get(name):
            return f"has {what} ({name})"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.startswith(MOVED_BASE):
        return f"fits a base model with changed weights (init_lora_weights: {start})"
    return ""


def joined_rank(folders: Sequence[Path]) -> int:
    """The rank of adapters that apply together, as far as their settings show; no weight is read.

    Raises:
        ModelError: the settings of one cannot be read.
    """
    configs = [read_lora_config(folder) for folder in folders]
    return sum(max([c["r"], *(c.get("rank_pattern") or {}).values()]) for c in configs)


def read_lora_config(folder: Path) -> dict[str, Any]:
    """The settings of a saved adapter, rank and scale filled in.

    Raises:
        ModelError: they cannot be read.
    """
    path = folder / ADAPTER_FILE
    try:
        config: dict[str, Any] = dict(files.read_json(path))
        config["r"], config["lora_alpha"] = int(config.get("r", 8)), config.get("lora_alpha", 8)
    except (OSError, ValueError, TypeError) as error:
        raise damaged_adapter(path, error) from error
    return config


def damaged_adapter(path: Path, error: Exception) -> ModelError:
    """What is raised for a file that cannot be read."""
    return ModelError(
        f"{path} is missing or damaged ({error}), so the adapter cannot be served. Restore it from "
        "a backup, or roll back to another version."
    )
