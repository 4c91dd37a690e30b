"""Which number format a model computes in, and why; what trains stays in float32.

Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

FAST_FLOAT16 = (7, 0)
"""CUDA compute capability from which float16 products run on tensor cores."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Precision:
    """The number format of a model.

    Attributes:
        dtype: of the products, and of weights that do not train.
        reason: why this one, as part of a sentence.
        is_pure: whether what trains, and so the optimizer, has this format too.
    """

    dtype: torch.dtype
    reason: str
    is_pure: bool = False

    @property
    def is_mixed(self) -> bool:
        """Whether the products have another format than the weights that train."""
        return self.dtype != torch.float32 and not self.is_pure

    @property
    def name(self) -> str:
        """As the settings have it."""
        return ("pure_" if self.is_pure else "") + str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        kept = "; what trains and the optimizer stay in float32" if self.is_mixed else ""
        return f"{self.name}, {self.reason}{kept}"


AS_LOADED = Precision(torch.float32, "as loaded")
"""Of a model whose settings are unknown: each product has the format of its weights."""


def choose(name: str) -> Precision:
    """The number format that a setting asks for.

    Args:
        name: `auto` takes what this hardware is fast at; `pure_bfloat16` has no float32 weights.
    """
    if name == "auto":
        return _fastest()
    if name == "float16" and not torch.cuda.is_available():
        fastest = _fastest()
        why = f"since float16 is trained on CUDA GPUs only and there is none ({fastest.reason})"
        _warn_once(f"model.dtype: float16 becomes {fastest.name}, {why}.")
        return replace(fastest, reason=why)
    dtype: torch.dtype = getattr(torch, name.removeprefix("pure_"))
    return Precision(dtype, "as set", is_pure=name.startswith("pure_"))


def settle(network: nn.Module, precision: Precision) -> None:
    """Give the weights that train the format they are kept in, and let LoRA layers share inputs.

    PEFT does the first for the weights of an adapter, but not for modules that train as a whole
    beside it.

    Args:
        network: with its adapter.
        precision: what it computes in.
    """
    if precision.is_pure:
        for weight in network.parameters():
            if weight.is_floating_point():
                weight.data = weight.data.to(precision.dtype)
        return
    for module in network.modules():
        if hasattr(module, "lora_A"):
            module._cast_input_dtype = _widened  # type: ignore[assignment]
        coarse = [weight for weight in _own_trained(module) if weight.dtype.itemsize < 4]
        for weight in coarse:
            weight.data = weight.data.float()
        if coarse:
            _let_pass(module, precision.dtype)


def computing(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Products in the format of a model, as in training, for a pass outside of training."""
    # weights are exchanged between passes, and a copy of the old ones must not be taken for the new
    return torch.autocast(
        device.type, precision.dtype, enabled=precision.is_mixed, cache_enabled=False
    )


def _widened(value: Any, dtype: torch.dtype) -> Any:
    """The input of a LoRA layer, in the format of its weights where nothing else matches them.

    PEFT copies it to float32 in any case. Autocast then copies it back, and each of the layers that
    share an input keeps its own copy for the backward pass.
    """
    if not isinstance(value, Tensor) or torch.is_autocast_enabled(value.device.type):
        return value
    return value.to(dtype)


def _own_trained(module: nn.Module) -> Iterator[nn.Parameter]:
    for weight in module.parameters(recurse=False):
        if weight.requires_grad and weight.is_floating_point():
            yield weight


def _let_pass(module: nn.Module, dtype: torch.dtype) -> None:
    """Float32 weights between layers of another format, also where no autocast is on."""

    def widen(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(_cast(arg, torch.float32) for arg in args)

    def narrow(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _cast(output, dtype)

    module.register_forward_pre_hook(widen)
    module.register_forward_hook(narrow)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    is_real = isinstance(value, Tensor) and value.is_floating_point()
    return value.to(dtype) if is_real else value


def _fastest() -> Precision:
    if not torch.cuda.is_available():
        return _fastest_on_cpu()
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return Precision(torch.bfloat16, f"which {name} is fast at")
    if torch.cuda.get_device_capability() >= FAST_FLOAT16:
        return Precision(torch.float16, f"which {name} is fast at; it has no bfloat16")
    return Precision(torch.float32, f"since {name} is fast at no shorter format")


def _fastest_on_cpu() -> Precision:
    if found := fast_bfloat16():
        return Precision(torch.bfloat16, f"which this processor is fast at ({found})")
    return Precision(torch.float32, "since this processor has no fast bfloat16 products")


def fast_bfloat16() -> str:
    """What gives this processor fast products in bfloat16; empty where it has none."""
    can = torch.cpu.get_capabilities()
    return next((name for name in ("amx_bf16", "avx512_bf16") if can.get(name)), "")


@functools.cache
def _warn_once(message: str) -> None:
    """A base model is loaded several times in a round."""
    logger.warning("%s", message)
