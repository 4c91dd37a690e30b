"""Norms, rotary positions and gated layers by the library Liger.

Hsu et al. 2024, https://arxiv.org/abs/2410.10989
"""

import importlib
import importlib.util
from typing import Any

import torch

from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.model.layers import causal_of


def require_liger() -> None:
    """Refuse early where Liger cannot run.

    Raises:
        ConfigError: the library or a GPU is missing.
    """
    missing = [] if torch.cuda.is_available() else ["a CUDA GPU, which this machine does not have"]
    if importlib.util.find_spec("liger_kernel") is None:
        missing.append(
            "the library liger-kernel, which is not installed (pip install liger-kernel)"
        )
    if missing:
        raise ConfigError(
            f"training.liger_kernel: true needs {' and '.join(missing)}. Leave it false: logits "
            "are never held whole in any case."
        )


def use_liger(network: Any) -> None:
    """Norms, rotary positions and gated layers by Liger's programs, in place.

    Its loss is left out: ours scores trained positions only.

    Args:
        network: a Transformers model, with or without an adapter.

    Raises:
        ModelError: Liger does not know this architecture.
    """
    causal = causal_of(network)
    library: Any = importlib.import_module("liger_kernel.transformers.monkey_patch")
    kind = causal.config.model_type
    known = library.MODEL_TYPE_TO_APPLY_LIGER_FN
    if kind not in known:
        raise ModelError(
            f"training.liger_kernel: Liger does not know '{kind}' models. Leave it false. Known: "
            f"{', '.join(sorted(known))}."
        )
    library._apply_liger_kernel_to_instance(
        model=causal, fused_linear_cross_entropy=False, cross_entropy=False
    )
