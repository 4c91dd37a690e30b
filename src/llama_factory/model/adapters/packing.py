"""What adapters on a packed base model share. Registers nothing itself."""

from typing import TYPE_CHECKING, Any, Literal

from llama_factory.core.errors import ModelError
from llama_factory.model.adapters import ADAPTERS, Adapter
from llama_factory.model.packing_libraries import missing, quieten

if TYPE_CHECKING:
    import torch

INSTEAD = (
    "Use adapter type lora with a smaller base model, or with model.freeze_layers and fewer "
    "targets, which need less memory as well."
)


class OnPackedBase(Adapter):
    """Parts whose base model's weights are packed into 4 or 8 bits as they are read."""

    bits: Literal[4, 8] = 4
    """Bits of a packed weight. 4 needs half the memory of 8 and is a little less exact."""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """How 4 bits are spread: `nf4` for weights that are normally distributed, as most are."""
    double_quant: bool = True
    """Pack the scales of 4-bit weights as well: saves 0.4 bits a weight."""

    def require_hardware(self) -> None:
        """See `Adapter.require_hardware`."""
        if needed := missing("bitsandbytes"):
            raise ModelError(
                f"adapter.type {ADAPTERS.name_of(self)} with {self.bits} bits needs {needed}, "
                f"which this machine does not have. {INSTEAD}"
            )

    def quantization(self, dtype: "torch.dtype") -> Any:
        """See `Adapter.quantization`."""
        from transformers import BitsAndBytesConfig

        quieten()
        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )
