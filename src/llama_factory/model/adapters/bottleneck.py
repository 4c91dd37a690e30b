"""Bottleneck adapters: small layers behind attention and feed-forward blocks of a frozen model.

Houlsby et al. 2019, https://arxiv.org/abs/1902.00751
"""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from llama_factory.model.adapters import ADAPTERS, Adapter

if TYPE_CHECKING:
    from torch import nn


@ADAPTERS.register("bottleneck")
class Bottleneck(Adapter):
    """Small layers behind each attention and feed-forward block. They cannot be merged into the
    base, and only this program reads them."""

    peft_type: ClassVar[str | None] = "BOTTLENECK"

    size: int = Field(64, ge=1, le=4096)
    """Width of each small layer. Higher learns more and forgets more."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """Between the two halves of each small layer."""
    targets: Literal["paper"] | list[str] = "paper"
    """Linear layers that one follows, by name; `paper`: the last of each attention and each
    feed-forward block."""
    exclude: list[str] = []
    """Names of linear layers that none follows, out of `targets`."""

    def apply(self, model: "nn.Module", *, freeze_layers: int, seed: int) -> Any:
        """See `Adapter.apply`."""
        from llama_factory.model.layers import (
            adapted_layers,
            last_linear_names,
            target_names,
            unadapted,
        )
        from llama_factory.model.peft_extensions import BottleneckConfig, register_bottleneck
        from llama_factory.model.wrapping import wrap

        register_bottleneck()
        paper = self.targets == "paper"
        names = target_names(model, last_linear_names(model) if paper else self.targets)
        left_out = unadapted(model, freeze_layers, self.exclude)
        adapted_layers(model, names, left_out)
        config = BottleneckConfig(
            size=self.size,
            activation=self.activation,
            target_modules=names,
            exclude_modules=left_out,
            task_type="CAUSAL_LM",
        )
        return wrap(model, config, seed)

    def shape(self) -> dict[str, tuple[Any, ...]]:
        """See `Adapter.shape`."""
        wanted: dict[str, tuple[Any, ...]] = {
            "size": (self.size,),
            "activation": (self.activation,),
        }
        if self.targets != "paper":
            wanted["target_modules"] = (sorted(self.targets),)
        return wanted
