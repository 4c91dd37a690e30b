"""QLoRA: LoRA on a base model whose weights are packed into 4 or 8 bits.

Dettmers et al. 2023, https://arxiv.org/abs/2305.14314
"""

import importlib.util
from typing import Any, Literal, Self

from pydantic import model_validator

from llama_factory.core.errors import ModelError
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.adapters.lora import Lora

INSTEAD = (
    "Use adapter type lora with a smaller base model, or with model.freeze_layers and fewer "
    "targets, which need less memory as well."
)


@ADAPTERS.register("qlora")
class Qlora(Lora):
    """LoRA on a packed base model. Needs a CUDA GPU and bitsandbytes."""

    bits: Literal[4, 8] = 4
    """Bits of a packed weight. 4 needs half the memory of 8 and is a little less exact."""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """How 4 bits are spread: `nf4` for weights that are normally distributed, as most are."""
    double_quant: bool = True
    """Pack the scales of 4-bit weights as well: saves 0.4 bits a weight."""

    @model_validator(mode="after")
    def _starts_at_zero(self) -> Self:
        if self.is_principal:
            raise ValueError(
                f"init: {self.init} decomposes the weights, and packed weights cannot be. Use "
                "init: default, or type lora."
            )
        return self

    def require_hardware(self) -> None:
        """See `Adapter.require_hardware`."""
        import torch

        missing = []
        if not torch.cuda.is_available():
            missing.append("a CUDA GPU")
        if importlib.util.find_spec("bitsandbytes") is None:
            missing.append("the library bitsandbytes (pip install bitsandbytes)")
        if missing:
            raise ModelError(
                f"adapter.type qlora with {self.bits} bits needs {' and '.join(missing)}, which "
                f"this machine does not have. {INSTEAD}"
            )

    def quantization(self) -> Any:
        """See `Adapter.quantization`."""
        import torch
        from transformers import BitsAndBytesConfig

        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=torch.bfloat16 if is_fast else torch.float16,
        )
