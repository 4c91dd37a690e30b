"""What adapters on a packed base model share. Registers nothing itself."""

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import model_validator

from llama_factory.core.errors import ModelError
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.model.adapters import ADAPTERS, Adapter
from llama_factory.model.packing_libraries import missing, quieten

if TYPE_CHECKING:
    import torch

INSTEAD = (
    "Use adapter type lora with a smaller base model, or with model.freeze_layers and fewer "
    "targets, which need less memory as well."
)


EIGHT_BITS_ONLY = kind_of_sentence(
    "settings.eight_bits_only",
    "library: torchao packs weights into 8 bits here, and bits is 4. Set bits: 8, or leave "
    "library out.",
)
FP8_OF_TORCHAO = kind_of_sentence(
    "settings.fp8_of_torchao",
    "eight_bits: fp8 is torchao's. Set library: torchao, or eight_bits: int8.",
)


class OnPackedBase(Adapter):
    """Parts whose base model's weights are packed into 4 or 8 bits as they are read."""

    bits: Literal[4, 8] = 4
    """Bits of a packed weight. 4 needs half the memory of 8 and is a little less exact."""
    quant_type: Literal["nf4", "fp4"] = "nf4"
    """How 4 bits are spread: `nf4` for weights that are normally distributed, as most are."""
    double_quant: bool = True
    """Pack the scales of 4-bit weights as well: saves 0.4 bits a weight."""
    library: Literal["bitsandbytes", "torchao"] = "bitsandbytes"
    """What packs. `torchao` packs 8 bits and leaves what goes into a layer as it is, where
    `bitsandbytes` rounds that to 8 bits too."""
    eight_bits: Literal["int8", "fp8"] = "int8"
    """How 8 bits are spread: evenly, or with `torchao` as short floating-point numbers (`fp8`),
    which keep small weights more exactly and large ones less."""

    @model_validator(mode="after")
    def _can_be_packed(self) -> Self:
        if self.library == "torchao" and self.bits == 4:
            raise ValueError(EIGHT_BITS_ONLY())
        if self.library == "bitsandbytes" and self.eight_bits == "fp8":
            raise ValueError(FP8_OF_TORCHAO())
        return self

    def require_hardware(self) -> None:
        """See `Adapter.require_hardware`."""
        if needed := missing(self.library):
            raise ModelError(
                f"adapter.type {ADAPTERS.name_of(self)} with {self.bits} bits needs {needed}, "
                f"which this machine does not have. {INSTEAD}"
            )

    def quantization(self, dtype: "torch.dtype") -> Any:
        """See `Adapter.quantization`."""
        from transformers import BitsAndBytesConfig

        quieten()
        if self.library == "torchao":
            return _torchao(self.eight_bits)
        if self.bits == 8:
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quant_type,
            bnb_4bit_use_double_quant=self.double_quant,
            bnb_4bit_compute_dtype=dtype,
        )


def _torchao(kind: str) -> Any:
    """Transformers' config of weights that torchao packs."""
    import importlib

    from transformers import TorchAoConfig

    library: Any = importlib.import_module("torchao.quantization")  # an extra without types
    kinds = {"int8": library.Int8WeightOnlyConfig, "fp8": library.Float8WeightOnlyConfig}
    return TorchAoConfig(quant_type=kinds[kind]())
