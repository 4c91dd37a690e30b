"""LoRA: frozen weights W plus a trained product, W + (alpha / rank) B A.

Hu et al. 2021, equation 3, https://arxiv.org/abs/2106.09685
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from llama_factory.model.adapters import ADAPTERS, Adapter

if TYPE_CHECKING:
    from torch import nn


@ADAPTERS.register("lora")
class Lora(Adapter):
    """Low-rank adaptation of linear layers."""

    rank: int = Field(16, ge=1, le=1024)
    """Width of the trained product. Higher learns more and forgets more; 8 to 64 is usual."""
    alpha: float | None = Field(None, gt=0)
    """Scale of the product, divided by the rank. Empty means 2 x rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs dropped while training. Higher resists over-fitting."""
    targets: Literal["all"] | list[str] = "all"
    """Names of the linear layers to adapt (`[q_proj, v_proj]`), or `all` but the output head."""

    def apply(self, model: "nn.Module", *, freeze_layers: int, seed: int) -> Any:
        """See `Adapter.apply`."""
        import torch
        from peft import LoraConfig, get_peft_model

        from llama_factory.model.layers import layers_above, target_names

        names = target_names(model, self.targets)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or 2 * self.rank,
            lora_dropout=self.dropout,
            target_modules=names,
            task_type="CAUSAL_LM",
            **layers_above(model, freeze_layers),
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return get_peft_model(model, config)
