"""Faster or leaner ways to compute the same network: attention, compiling, Liger, recomputation."""

import importlib
import importlib.util
import shutil
from typing import Any

import torch

from llama_factory.core.errors import ConfigError, ModelError
from llama_factory.model.layers import causal_of, repeated_blocks

COMPILERS = ("g++", "clang++", "c++")

USE_AUTO = "Use auto: attention of the same results, which is there."
HALVES = (torch.bfloat16, torch.float16)


def attention_implementation(name: str, dtype: torch.dtype) -> str | None:
    """What Transformers calls the attention that `model.attention` asks for.

    Args:
        name: `auto`, `sdpa`, `eager`, `flash_attention_2` or `flex`.
        dtype: in which the model computes.

    Returns:
        None for Transformers' own choice: `sdpa`, or `eager` for models without it.

    Raises:
        ModelError: a library or a GPU is missing.
    """
    missing = {"flash_attention_2": _missing_for_flash, "flex": _missing_for_flex}
    if name in missing and (lacks := missing[name](dtype)):
        raise ModelError(f"model.attention: {name} needs {' and '.join(lacks)}. {USE_AUTO}")
    return {"auto": None, "flex": "flex_attention"}.get(name, name)


def _missing_for_flash(dtype: torch.dtype) -> list[str]:
    lacks = [] if torch.cuda.is_available() else ["a CUDA GPU, which this machine does not have"]
    if importlib.util.find_spec("flash_attn") is None:
        lacks.append("the library flash-attn, which is not installed (pip install flash-attn)")
    if dtype not in HALVES:
        shown = str(dtype).removeprefix("torch.")
        lacks.append(f"model.dtype bfloat16 or float16 (it is {shown} here)")
    return lacks


def _missing_for_flex(dtype: torch.dtype) -> list[str]:
    """Torch compiles it for the forward pass on any device, for the backward pass on GPUs."""
    return [] if torch.cuda.is_available() else ["a CUDA GPU, which this machine does not have"]


def require_compiler() -> None:
    """Refuse early where torch cannot compile.

    Raises:
        ConfigError: there is no C++ compiler, and no GPU, which needs none.
    """
    has_one = any(shutil.which(name) for name in COMPILERS)
    if not has_one and not torch.cuda.is_available():
        raise ConfigError(
            "training.compile: true needs a C++ compiler on a machine without a GPU, and none of "
            f"{', '.join(COMPILERS)} is found. Install g++ (apt install g++), or leave it false."
        )


def compile_layers(network: Any) -> None:
    """Compile each decoder layer by itself, in place, so that all layers share one program.

    The whole model at once took 346 s to compile on 2 cores and was 9 % faster. Sizes stay dynamic,
    so that micro-batches of other shapes use the same program. Call it after everything that runs
    the model without gradients, which would compile one more program.

    Args:
        network: a Transformers model, with or without an adapter.
    """
    for layer in repeated_blocks(network)[1]:
        layer.compile(dynamic=True)


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
    """Replace norms, rotary positions and gated layers by Liger's kernels, in place.

    Hsu et al. 2024, https://arxiv.org/abs/2410.10989. Its loss is left out: ours scores trained
    positions only.

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


def recompute(network: Any) -> None:
    """Let each decoder layer keep only its input and compute the rest again in the backward pass.

    Less memory, slower, the same gradients: Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    Without re-entry, so that it also works where nothing below a layer trains.

    Args:
        network: a Transformers model, with or without an adapter.

    Raises:
        ModelError: the model's own code cannot do it.
    """
    causal = causal_of(network)
    try:
        causal.activation_checkpointing_enable({"use_reentrant": False})
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"training.gradient_checkpointing: {type(causal).__name__} cannot compute its layers "
            f"again ({error}). Set it to false and lower training.micro_batch_tokens instead."
        ) from error
