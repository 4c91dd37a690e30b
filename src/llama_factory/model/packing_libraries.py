"""Libraries that pack weights and moments: what they lack on this machine, and their ways."""

import logging
from importlib import metadata
from typing import Any

from packaging.version import Version

FIRST_ON_CPU = {"bitsandbytes": Version("0.50"), "torchao": Version("0.18")}
"""Versions that were seen to train on machines without a GPU."""
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
