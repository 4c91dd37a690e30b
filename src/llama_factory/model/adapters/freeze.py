"""Partial fine-tuning: some layers of the base model train, in float32; all others are frozen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from llama_factory.core.errors import ModelError
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.model.adapters import ADAPTERS
from llama_factory.model.adapters.full import OwnWeights

if TYPE_CHECKING:
    from torch import nn


NO_FREE_LAYERS = kind_of_sentence(
    "settings.no_free_layers",
    "highest and lowest are 0, so nothing would train. Give one of them, or name extra_modules.",
)
NO_FREE_MODULES = kind_of_sentence(
    "settings.no_free_modules", "modules is empty, so nothing would train. Name some, or `all`."
)


@ADAPTERS.register("freeze")
class FreezeTuning(OwnWeights):
    """The highest or lowest layers train, and all others are frozen; the output is a whole
    model."""

    treats_layers_alike: ClassVar[bool] = False

    highest: int | None = Field(None, ge=0)
    """How many of the highest layers train. Higher learns more and forgets more. Empty: 2, or none
    where `lowest` or `extra_modules` is given."""
    lowest: int | None = Field(None, ge=0)
    """How many of the lowest layers train."""
    spread: bool = False
    """Spread the layers that `highest` counts evenly over the model, the last one among them: for
    models that were made longer by copied layers (LLaMA-Pro)."""
    modules: Literal["all"] | list[str] = "all"
    """Which parts of those layers train, by name (`[self_attn, down_proj]`), or `all`."""
    extra_modules: list[str] = []
    """Modules outside the layers that train as well (`[embed_tokens, lm_head]`)."""

    @model_validator(mode="after")
    def _trains_something(self) -> Self:
        given = (self.highest, self.lowest)
        if not any(given) and given != (None, None) and not self.extra_modules:
            raise ValueError(NO_FREE_LAYERS())
        if self.modules == []:
            raise ValueError(NO_FREE_MODULES())
        return self

    def apply(self, model: "nn.Module", *, freeze_layers: int, seed: int) -> Any:
        """See `Adapter.apply`."""
        from llama_factory.model.layers import repeated_blocks

        name, blocks = repeated_blocks(model)
        chosen = self._chosen(len(blocks), freeze_layers)
        parts = [part for index in chosen for part in self._parts(blocks[index])]
        parts += self._extra_parts(model, name)
        model.requires_grad_(False)
        for part in parts:
            part.requires_grad_(True)
        return model.float()

    def _chosen(self, num_layers: int, freeze_layers: int) -> list[int]:
        """Numbers of the layers that train."""
        highest, lowest = self._counts(num_layers, freeze_layers)
        if self.spread:
            stride = max(1, num_layers // max(1, highest))
            return list(range(num_layers - 1, -1, -stride))[:highest][::-1]
        chosen = [i for i in range(num_layers) if i < lowest or i >= num_layers - highest]
        if chosen and freeze_layers > chosen[0]:
            raise ModelError(
                f"model.freeze_layers is {freeze_layers} and adapter type freeze is to train layer "
                f"{chosen[0]} of 0 to {num_layers - 1}. Set freeze_layers to 0, or train at most "
                f"{max(0, num_layers - freeze_layers)} of the highest layers."
            )
        return chosen

    def _counts(self, num_layers: int, freeze_layers: int) -> tuple[int, int]:
        """How many of the highest and of the lowest layers train."""
        highest, lowest = self.highest or 0, self.lowest or 0
        if self.highest is None and self.lowest is None and not self.extra_modules:
            highest = min(2, num_layers - freeze_layers)
        for setting, count in (("highest", highest), ("lowest", lowest)):
            if count > num_layers:
                raise ModelError(
                    f"adapter.{setting} is {count} and the model has {num_layers} layers. Give at "
                    f"most {num_layers}, or train all weights with adapter type full."
                )
        return highest, lowest

    def _parts(self, layer: "nn.Module") -> "list[nn.Module]":
        """The modules of one layer that train."""
        if self.modules == "all":
            return [layer]
        return _named(layer, self.modules, "adapter.modules", "part of a layer")

    def _extra_parts(self, model: "nn.Module", stack: str) -> "list[nn.Module]":
        """The modules outside the stack of layers that train."""
        kind = "module outside the layers"
        return _named(model, self.extra_modules, "adapter.extra_modules", kind, outside=stack)


def _named(
    model: "nn.Module", names: Sequence[str], setting: str, kind: str, *, outside: str | None = None
) -> "list[nn.Module]":
    """Modules by name, out of all that have weights and do not lie around or under `outside`."""
    from llama_factory.model.layers import is_named, require_layers

    known = {
        name: module
        for name, module in model.named_modules()
        if name and any(True for _ in module.parameters()) and not _touches(name, outside)
    }
    require_layers(names, known, setting, kind)
    return [module for full, module in known.items() if any(is_named(full, n) for n in names)]


def _touches(name: str, outside: str | None) -> bool:
    if outside is None:
        return False
    return f"{name}.".startswith(f"{outside}.") or outside.startswith(f"{name}.")
