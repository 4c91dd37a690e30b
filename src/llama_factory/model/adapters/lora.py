"""LoRA: frozen weights W plus a trained product, W + (alpha / rank) B A.

Hu et al. 2021, equation 3, https://arxiv.org/abs/2106.09685
rsLoRA: Kalajdzievski 2023, https://arxiv.org/abs/2312.03732
DoRA: Liu et al. 2024, equation 5, https://arxiv.org/abs/2402.09353
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from llama_factory.core.errors import suggest
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.model.adapters import ADAPTERS, Adapter

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn

STARTS = ("default", "pissa", "pissa_niter_16", "olora")


NO_LOFTQ = kind_of_sentence(
    "settings.no_loftq",
    "loftq is not supported: it starts at the rounding error of a quantised base, and rounds "
    "the base anew for it, which no other adapter then fits. Use init: pissa with type lora, or"
    " init: default with type qlora.",
)
NO_START = kind_of_sentence(
    "settings.no_start",
    "'{name}' is no start for LoRA.{hint} Known: default, pissa, pissa_niter_N (N iterations), "
    "olora.",
)
TWO_STARTS = kind_of_sentence(
    "settings.two_starts",
    "init: {init} and use_dora exclude each other: both decide where the product starts. Leave "
    "one of them out.",
)
START_NOT_SAVED = kind_of_sentence(
    "settings.start_not_saved",
    "init: {init} cannot be saved together with modules_to_save. Use init: default, or leave "
    "modules_to_save out.",
)


@ADAPTERS.register("lora")
class Lora(Adapter):
    """Low-rank adaptation of linear layers."""

    peft_type: ClassVar[str | None] = "LORA"

    rank: int = Field(16, ge=1, le=1024)
    """Width of the trained product. Higher learns more and forgets more; 8 to 64 is usual."""
    alpha: float | None = Field(None, gt=0)
    """Scale of the product, divided by the rank. Empty means 2 x rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the adapter's inputs dropped while training. Higher resists over-fitting."""
    targets: Literal["all"] | list[str] = "all"
    """Names of the linear layers to adapt (`[q_proj, v_proj]`), or `all` but the output head."""
    exclude: list[str] = []
    """Names of linear layers that are left alone, out of `targets`."""
    modules_to_save: list[str] = []
    """Other modules that train as a whole and are saved with the adapter: the embeddings and the
    head, when tokens were added. Each costs memory like full training of it."""
    use_rslora: bool = False
    """Divide `alpha` by the square root of the rank instead of the rank: steady at high ranks."""
    use_dora: bool = False
    """Also train the length of each weight column. Closer to full training, slower."""
    init: str = "default"
    """Where the product starts. `default`: at zero. `pissa`: at the largest singular parts of the
    weights, which learns faster; `pissa_niter_16` finds them in 16 quick iterations. `olora`: at
    their QR parts. These two compute and save the product at twice the rank."""

    @field_validator("init")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name == "loftq":
            raise ValueError(NO_LOFTQ())
        if name not in STARTS and not re.fullmatch(r"pissa_niter_[1-9]\d{0,2}", name):
            raise ValueError(NO_START(name=name, hint=suggest(name, STARTS)))
        return name

    @model_validator(mode="after")
    def _combines(self) -> Self:
        if self.is_principal and self.use_dora:
            raise ValueError(TWO_STARTS(init=self.init))
        if self.is_principal and self.modules_to_save:
            raise ValueError(START_NOT_SAVED(init=self.init))
        return self

    @property
    def is_principal(self) -> bool:
        """Whether the product starts at a part of the weights."""
        return self.init != "default"

    def apply(self, model: "nn.Module", *, freeze_layers: int, seed: int) -> Any:
        """See `Adapter.apply`."""
        from llama_factory.model.wrapping import wrap

        config = self._config(model, freeze_layers)
        if not self.is_principal:
            return wrap(model, config, seed)
        from llama_factory.model.peft_extensions import principal_model

        return wrap(model, config, seed, build=principal_model)

    def train_tokens(self, network: Any, ids: Sequence[int]) -> None:
        """See `Adapter.train_tokens`: no other row of the embeddings trains or is saved."""
        from llama_factory.model.wrapping import train_rows

        train_rows(network, ids, trained_whole=self.modules_to_save)

    def shape(self) -> dict[str, tuple[Any, ...]]:
        """See `Adapter.shape`; what was not set is taken from the parent where that is safe."""
        ranks = (self.rank, 2 * self.rank) if self.is_principal else (self.rank,)
        wanted: dict[str, tuple[Any, ...]] = {
            "r": ranks,
            "use_dora": (self.use_dora,),
            "use_rslora": (self.use_rslora,),
        }
        if self.alpha is not None and not self.is_principal:
            wanted["lora_alpha"] = (self.alpha,)
        if self.targets != "all":
            wanted["target_modules"] = (sorted(self.targets),)
        return wanted

    def _config(self, model: "nn.Module", freeze_layers: int) -> "LoraConfig":
        from peft import LoraConfig

        from llama_factory.model.layers import (
            adapted_layers,
            require_modules,
            target_names,
            unadapted,
        )

        names = target_names(model, self.targets)
        left_out = unadapted(model, freeze_layers, self.exclude)
        adapted_layers(model, names, left_out)
        require_modules(model, self.modules_to_save, "adapter.modules_to_save")
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha or 2 * self.rank,
            lora_dropout=self.dropout,
            target_modules=names,
            exclude_modules=left_out,
            modules_to_save=list(self.modules_to_save) or None,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            init_lora_weights=self.init if self.is_principal else True,
            task_type="CAUSAL_LM",
        )
