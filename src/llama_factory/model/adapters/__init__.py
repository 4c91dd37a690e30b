"""Ways to make a base model trainable, one file each: `(model) -> model` with few weights."""

from typing import TYPE_CHECKING, Any

from llama_factory.core.settings import Registry, Settings, import_parts

if TYPE_CHECKING:
    from torch import nn


class Adapter(Settings):
    """Which weights train. A part holds settings only; `apply` builds the trainable model."""

    def apply(self, model: "nn.Module", *, freeze_layers: int, seed: int) -> Any:
        """Wrap the base model so that only the adapter's weights train.

        Args:
            model: a Transformers causal language model; its own weights become frozen.
            freeze_layers: the lowest n layers get no trained weight.
            seed: of the new weights.

        Returns:
            A PEFT model.
        """
        raise NotImplementedError


ADAPTERS: Registry[Adapter] = Registry("adapter")
import_parts(__name__, __path__)
