"""Libraries that pack weights and moments: what they lack on this machine, and their ways."""

import logging
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.version import Version

from llama_factory.core.errors import ModelError
from llama_factory.core.files import read_json

FIRST_ON_CPU = {"bitsandbytes": Version("0.50"), "torchao": Version("0.18")}
"""Versions that were seen to train on machines without a GPU."""
READERS = {
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
    "compressed-tensors": ("compressed-tensors",),
    "gptq": ("gptqmodel", "optimum"),
    "torchao": ("torchao",),
}
"""What a model's own files were packed by, as its config names it -> libraries that read them."""
INSTALL = "pip install 'llama-factory-continual[packed]'"


def missing(library: str) -> str:
    """What a library lacks on this machine, as part of a sentence; empty where it can be used."""
    import torch

    try:
        found = Version(metadata.version(library))
    except metadata.PackageNotFoundError:
        return f"the library {library} ({INSTALL})"
    first = FIRST_ON_CPU[library]
    if found < first and not torch.cuda.is_available():
        return f"a CUDA GPU, or {library} {first} or newer ({found} is installed; {INSTALL})"
    return ""


def require_reader(folder: Path) -> None:
    """Make sure that a model whose files are packed can be read here.

    Raises:
        ModelError: a library is missing.
    """
    packed = read_json(folder / "config.json").get("quantization_config") or {}
    method = packed.get("quant_method", "")
    lacking = [name for name in READERS.get(method, ()) if not _is_installed(name)]
    if lacking:
        raise ModelError(
            f"model.base_model: the weights of {folder} are packed by {method}, and "
            f"{' and '.join(lacking)} to read them {'is' if len(lacking) == 1 else 'are'} not "
            f"installed: pip install {' '.join(lacking)}. Or name the model that they were packed "
            "from: adapter type qlora packs its weights as they are read."
        )


def _is_installed(library: str) -> bool:
    try:
        metadata.version(library)
    except metadata.PackageNotFoundError:
        return False
    return True


def quieten() -> None:
    """Leave out what they tell of every product, and of kernels that cost speed alone."""
    for library in FIRST_ON_CPU:
        logging.getLogger(library).setLevel(logging.ERROR)


def keep_differentiable(network: Any) -> None:
    """Let layers of 4 bits stay as they were packed.

    On processors with products of bfloat16 the first pass without gradients lays their weights out
    anew, and no gradient comes through the products of these any more.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
