"""A model without its numbers: what it is made of and what trains, before any weight is read.

It is built of torch's fake tensors: its layers are those of the model, and take no memory.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from llama_factory.core.errors import ModelError
from llama_factory.model.acceleration import attention_implementation
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.base import load_tokenizer, loaded_dtype
from llama_factory.model.chat.encoding import EncodeOptions
from llama_factory.model.dtypes import choose, settle
from llama_factory.model.layers import linear_layers
from llama_factory.model.settings import ModelSettings


@dataclass(frozen=True)
class Outline:
    """A model as it would train.

    Attributes:
        model: with its adapter; nothing can be computed with it.
        mode: in which alone something can be asked of its layers.
        bits: of a packed weight, where an adapter packs those that are frozen.
    """

    model: AdaptedModel
    mode: FakeTensorMode
    bits: int | None

    @property
    def num_trained(self) -> int:
        """Weights that train."""
        return sum(each.numel() for each in self.model.trainable().values())

    @property
    def num_weights(self) -> int:
        """All weights."""
        return sum(each.numel() for each in self.model.network.parameters())

    @property
    def trained_bytes(self) -> int:
        """Bytes of the weights that train."""
        return sum(map(_num_bytes, self.model.trainable().values()))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, as loaded."""
        whole = sum(map(_num_bytes, self.model.network.parameters()))
        if self.bits is None:
            return whole
        packed = (each for each in self.layers() if not each.requires_grad)
        return whole + sum(each.numel() * self.bits // 8 - _num_bytes(each) for each in packed)

    @property
    def vocabulary(self) -> int:
        """Rows of the output head."""
        return int(self.model.network.get_output_embeddings().weight.shape[0])

    def layers(self) -> list[nn.Parameter]:
        """The weights of all linear layers but the head."""
        found: list[Any] = [each.weight for each in linear_layers(self.model.network).values()]
        return found

    def bytes_kept(self, num_tokens: int) -> int:
        """Bytes that a forward pass of so many tokens keeps for its backward pass."""
        own = {_storage(weight) for weight in self.model.network.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in own:
                kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        self.model.network.train()
        counting = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with self.mode, counting:
            ids = torch.ones((1, num_tokens), dtype=torch.long)
            # held until counted, or the memory of one tensor is counted as that of another
            alive = self.model.network(input_ids=ids, use_cache=False)
        num_bytes = sum(kept.values())
        del alive
        return num_bytes


def outline(settings: ModelSettings, folder: Path, options: EncodeOptions) -> Outline:
    """Build a model with its adapter.

    Args:
        settings: which adapter, which number format.
        folder: of the base model; its weights are not read.
        options: how rows become tokens.

    Raises:
        ModelError: the folder holds no model of a known kind, or it cannot carry the adapter.
    """
    precision, mode = choose(settings.dtype), FakeTensorMode(allow_non_fake_inputs=True)
    tokenizer = load_tokenizer(
        folder,
        trust_remote_code=settings.trust_remote_code,
        template=settings.template,
        replaces=settings.replace_template,
    )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                config,
                dtype=loaded_dtype(settings),
                attn_implementation=attention_implementation(settings.attention, precision.dtype),
                trust_remote_code=settings.trust_remote_code,
            )
            network = _plain(settings).apply(network, freeze_layers=settings.freeze_layers, seed=0)
            settle(network, precision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"{folder}: nothing can be known of this model: {error}") from error
    _pretend(network, mode)
    bits = getattr(settings.adapter, "bits", None)
    return Outline(AdaptedModel(network, tokenizer, "", options, precision), mode, bits)


def _pretend(network: nn.Module, mode: FakeTensorMode) -> None:
    """Let tensors without numbers pass for such of a CPU, whose layers choose their ways by it."""
    known: dict[int, Tensor] = {}
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                found = known.get(id(weight))
                known[id(weight)] = found = found if found is not None else _like(weight, mode)
                module._parameters[name] = found  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer, mode)


def _like(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        made = torch.empty(tensor.shape, dtype=tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            return nn.Parameter(made, requires_grad=tensor.requires_grad)
        return made


def _plain(settings: ModelSettings) -> Any:
    """The adapter, with a start of the same size that looks at no numbers."""
    adapter: Any = settings.adapter
    if not getattr(adapter, "is_principal", False):
        return adapter
    return adapter.model_copy(update={"init": "default", "rank": 2 * adapter.rank})


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor has: without numbers it has no address."""
    return int(tensor.untyped_storage()._cdata)
