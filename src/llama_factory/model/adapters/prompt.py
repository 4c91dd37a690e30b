"""Prompt tuning: trained vectors stand before every row, and nothing else trains.

Lester et al. 2021, https://arxiv.org/abs/2104.08691
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from llama_factory.core.errors import ModelError
from llama_factory.model.adapters import ADAPTERS, Adapter

if TYPE_CHECKING:
    from torch import nn


@ADAPTERS.register("prompt")
class Prompt(Adapter):
    """Trained vectors before every row. Wants a rate a hundred times LoRA's."""

    peft_type: ClassVar[str | None] = "PROMPT_TUNING"

    num_tokens: int = Field(20, ge=1, le=1024)
    """Vectors before every row. Higher learns more and leaves less room for text."""
    text: str | None = None
    """A text whose embeddings the vectors start at, cut or repeated to `num_tokens`. Empty: at
    tokens drawn from the vocabulary."""

    def apply(self, model: "nn.Module", *, freeze_layers: int, seed: int) -> Any:
        """See `Adapter.apply`."""
        from peft import PromptTuningConfig

        from llama_factory.model.peft_extensions import prepend_prompt
        from llama_factory.model.wrapping import wrap

        _refuse_freezing(freeze_layers)
        config = PromptTuningConfig(
            num_virtual_tokens=self.num_tokens,
            prompt_tuning_init="SAMPLE_VOCAB" if self.text is None else "TEXT",
            prompt_tuning_init_text=self.text,
            tokenizer_name_or_path=model.name_or_path if self.text else None,
            task_type="CAUSAL_LM",
        )
        return prepend_prompt(wrap(model, config, seed))

    def resume(self, model: "nn.Module", folder: Path, *, freeze_layers: int) -> Any:
        """See `Adapter.resume`."""
        from llama_factory.model.peft_extensions import prepend_prompt

        _refuse_freezing(freeze_layers)
        return prepend_prompt(super().resume(model, folder, freeze_layers=0))

    def shape(self) -> dict[str, tuple[Any, ...]]:
        """See `Adapter.shape`."""
        return {"num_virtual_tokens": (self.num_tokens,)}


def _refuse_freezing(freeze_layers: int) -> None:
    if freeze_layers:
        raise ModelError(
            f"model.freeze_layers is {freeze_layers} and adapter.type prompt trains no layer at "
            "all: its vectors stand before the lowest one. Set freeze_layers to 0, or use lora."
        )
