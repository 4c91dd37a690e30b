"""LoRA adapters that apply together -> one of concatenated ranks, for engines that take only one.

s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2]: the same sum, so nothing is approximated.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from llama_factory.core import files
from llama_factory.core.errors import ModelError
from llama_factory.model.lora_config import damaged_adapter, read_lora_config
from llama_factory.model.provenance import ADAPTER_FILE, WEIGHTS_FILE

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class _Lora:
    """One saved adapter.

    Attributes:
        config: adapter_config.json.
        weights: by PEFT's names.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]

    def modules(self) -> list[str]:
        """Full names of the adapted layers, as in the names of the weights."""
        return [name.removesuffix(DOWN) for name in self.weights if name.endswith(DOWN)]

    def factors(self, module: str) -> tuple[Tensor, Tensor]:
        """[rank, in] and [out, rank] of a layer, the scale in the second, both in float32."""
        down, up = (self.weights[module + end].float() for end in (DOWN, UP))
        alpha = _pattern(self.config.get("alpha_pattern"), module, self.config["lora_alpha"])
        rank = down.shape[0]
        scale = alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)
        return down, up * scale


def join(folders: Sequence[Path], target: Path, *, base_model: str) -> None:
    """Write one PEFT folder whose product is the sum of those of several.

    Layers of a smaller rank are filled up with zeros, so that one rank and one scale hold for all.

    Args:
        folders: adapters that apply together; `unjoinable` (`lora_config.py`) is empty for each.
        target: a new folder.
        base_model: written down as the model that it fits.

    Raises:
        ModelError: one is damaged.
    """
    adapters = [_read(folder) for folder in folders]
    names = dict.fromkeys(name for adapter in adapters for name in adapter.modules())
    products = {name: _joined(adapters, name) for name in names}
    rank = max(down.shape[0] for down, _ in products.values())
    weights = {}
    for name, (down, up) in products.items():
        missing = rank - down.shape[0]
        weights[name + DOWN] = torch.nn.functional.pad(down, (0, 0, 0, missing)).contiguous()
        weights[name + UP] = torch.nn.functional.pad(up, (0, missing)).contiguous()
    target.mkdir(parents=True)
    save_file(weights, target / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted({name.rpartition(".")[2] for name in names}),
        "inference_mode": True,
    }
    files.write_json(target / ADAPTER_FILE, config)


def _joined(adapters: Sequence[_Lora], module: str) -> tuple[Tensor, Tensor]:
    having = [each.factors(module) for each in adapters if module + DOWN in each.weights]
    downs, ups = zip(*having, strict=True)
    return torch.cat(downs, dim=0), torch.cat(ups, dim=1)


def _read(folder: Path) -> _Lora:
    try:
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise damaged_adapter(folder / WEIGHTS_FILE, error) from error
    adapter = _Lora(read_lora_config(folder), weights)
    known = {module + end for module in adapter.modules() for end in (DOWN, UP)}
    if strange := sorted(weights.keys() ^ known):
        raise ModelError(
            f"{folder}: {strange[0]} is missing, or is no part of a product that is added to a "
            "linear layer, so this adapter cannot be joined with others."
        )
    if not known:
        raise ModelError(f"{folder}: this adapter has no weights. Restore it from a backup.")
    return adapter


def _pattern(patterns: dict[str, float] | None, module: str, usual: float) -> float:
    """The value for a layer; PEFT's patterns name the end of its name."""
    layer = module.removeprefix("base_model.model.")
    for pattern, value in (patterns or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):
            return value
    return usual
