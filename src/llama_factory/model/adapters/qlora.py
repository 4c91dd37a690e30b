"""QLoRA: LoRA on a base model whose weights are packed into 4 or 8 bits.

Dettmers et al. 2023, https://arxiv.org/abs/2305.14314
"""

from typing import Self

from pydantic import model_validator

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.adapters.lora import Lora
from llama_factory.model.adapters.packing import OnPackedBase

START_OF_PACKED = kind_of_sentence(
    "settings.start_of_packed",
    "init: {init} decomposes the weights, and packed weights cannot be. Use init: default, or "
    "type lora.",
)


@ADAPTERS.register("qlora")
class Qlora(OnPackedBase, Lora):
    """LoRA on a packed base model. Needs bitsandbytes."""

    @model_validator(mode="after")
    def _starts_at_zero(self) -> Self:
        if self.is_principal:
            raise ValueError(START_OF_PACKED(init=self.init))
        return self
