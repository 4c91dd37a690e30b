"""Ways to make a base model trainable, one file each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from llama_factory.core.errors import ModelError
from llama_factory.core.files import read_json
from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.model.provenance import ADAPTER_FILE

if TYPE_CHECKING:
    import torch
    from torch import nn

SETTING_NAMES = {
    "r": "rank",
    "lora_alpha": "alpha",
    "oft_block_size": "block_size",
    "num_virtual_tokens": "num_tokens",
    "target_modules": "targets",
}
"""PEFT's name of a value in adapter_config.json -> our setting, where they differ."""


class Adapter(Settings):
    """Which weights train. A part holds settings only; `apply` builds the trainable model.

    Attributes:
        peft_type: PEFT's name for what `apply` makes; None for parts that train the base model's
            own weights and save a whole model instead of an adapter folder.
        treats_layers_alike: what it trains in a layer does not depend on the layer's number.
    """

    peft_type: ClassVar[str | None] = None
    treats_layers_alike: ClassVar[bool] = True

    def require_hardware(self) -> None:
        """Make sure, before any file is read, that this machine can run it.

        Raises:
            ModelError: what is missing, and what to use instead.
        """

    def quantization(self, dtype: "torch.dtype") -> Any:
        """How the base model's weights are packed when it is loaded: Transformers' config.

        Args:
            dtype: number format of the products.
        """
        return None

    def apply(self, model: "nn.Module", *, freeze_layers: int, seed: int) -> Any:
        """Wrap the base model so that only the adapter's weights train.

        Args:
            model: a Transformers causal language model; its own weights become frozen.
            freeze_layers: the lowest n layers get no trained weight.
            seed: of the new weights.

        Returns:
            A PEFT model, or the model itself where its own weights train.
        """
        raise NotImplementedError

    def resume(self, model: "nn.Module", folder: Path, *, freeze_layers: int) -> Any:
        """Wrap the base model with a saved adapter, to go on training it.

        Args:
            model: as for `apply`.
            folder: a PEFT folder.
            freeze_layers: the adapter's weights in the lowest n layers stay as they are.

        Raises:
            ModelError: the saved adapter is damaged or does not fit the model.
        """
        from llama_factory.model.wrapping import wrap_saved

        return wrap_saved(model, folder, is_trainable=True, freeze_layers=freeze_layers)

    def require_fits(self, folder: Path) -> None:
        """Make sure, before the model is read, that a saved adapter fits these settings.

        Raises:
            ModelError: it is of another kind or shape; the message says both and the ways out.
        """
        saved, kind = _read_config(folder), ADAPTERS.name_of(self)
        if self.peft_type != saved["peft_type"]:
            other = _name_of(saved["peft_type"])
            raise ModelError(
                f"adapter.type is {kind} and the parent's adapter in {folder} is of type {other}. "
                f"{_ways_out('type', other)}"
            )
        for key, fitting in self.shape().items():
            name = SETTING_NAMES.get(key, key)
            if saved.get(key) not in fitting:
                raise ModelError(
                    f"adapter.{name} is {fitting[0]} and the parent's adapter in {folder} has "
                    f"{name} {saved.get(key)}. {_ways_out(name, saved.get(key))}"
                )

    def adopt(self, folder: Path) -> Self:
        """These settings, with what they leave open taken from a saved adapter.

        Raises:
            ModelError: there is no adapter in the folder.
        """
        saved, names = (
            _read_config(folder),
            {key: SETTING_NAMES.get(key, key) for key in self.shape()},
        )
        if saved["peft_type"] != self.peft_type:
            return self  # `require_fits` refuses it
        left_open = {key: name for key, name in names.items() if name not in self.model_fields_set}
        return self.model_copy(update={name: saved[key] for key, name in left_open.items()})

    def train_tokens(self, network: Any, ids: Sequence[int]) -> None:
        """Let the rows of new tokens in the embeddings and the output head train as well.

        Args:
            network: what `apply` returned.
            ids: of the tokens.

        Raises:
            ModelError: this kind of adapter cannot.
        """
        raise ModelError(
            f"adapter.type {ADAPTERS.name_of(self)} does not train the rows of new tokens "
            f"({len(ids)} of them). Use lora or full, or leave model.new_tokens and "
            "model.new_special_tokens out."
        )

    def shape(self) -> dict[str, tuple[Any, ...]]:
        """What a saved adapter must have to go on: key in adapter_config.json -> values that fit.

        The first value is the one wanted.
        """
        return {}


def _ways_out(name: str, saved: Any) -> str:
    return (
        f"Training goes on with the parent's adapter: set {name} back to {saved}, or start anew "
        "(a new workspace, or a run without adapter_name_or_path)."
    )


def _read_config(folder: Path) -> dict[str, Any]:
    """The adapter_config.json of a saved adapter."""
    file = folder / ADAPTER_FILE
    if not file.is_file() and (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} holds a whole model and no adapter, so there is no adapter to go on with. "
            "Name it as model.base_model instead."
        )
    try:
        saved = read_json(file)
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: no adapter can be read here: {error}") from error
    if not isinstance(saved, dict) or "peft_type" not in saved:
        raise ModelError(f"{file} names no peft_type, so it is no adapter that PEFT wrote.")
    if isinstance(saved.get("target_modules"), list):
        saved["target_modules"] = sorted(saved["target_modules"])
    return saved


def _name_of(peft_type: Any) -> str:
    """Our name of a PEFT type; qlora's adapters are LoRA adapters."""
    names = (name for name, part in ADAPTERS.parts.items() if part.peft_type == peft_type)
    return min(names, key=len, default=str(peft_type).lower())


ADAPTERS: Registry[Adapter] = Registry("adapter")
import_parts(__name__, __path__)
