"""A model without its numbers: what it is made of and what trains, before any weight is read.

It is built of torch's fake tensors: its layers are those of the model, and take no memory.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from llama_factory.core.errors import ModelError
from llama_factory.model.base import loaded_dtype
from llama_factory.model.dtypes import Precision, choose, computing, settle
from llama_factory.model.layers import backbone_of, key_width, linear_layers
from llama_factory.model.quick.layer import kept_bytes
from llama_factory.model.quick.network import is_known_kind
from llama_factory.model.quick.trunk import num_frozen
from llama_factory.model.settings import ModelSettings

SCALES = {True: 0.0159, False: 0.0625}
"""Bytes of the scales of a weight of 4 bits, by whether they are packed as well: one of 32 bits for
64 weights; packed 8 bits, and one of 32 for 256 of those (Dettmers et al. 2023, section 3)."""

NORM_BYTES = 16
"""Of each feature, for the last norm and the states behind it: four numbers in float32."""


@dataclass(frozen=True)
class Outline:
    """A model as it would train.

    Attributes:
        network: with its adapter; nothing can be computed with it.
        precision: that its products would have.
        mode: in which alone something can be asked of its layers.
        packed_bytes: of a frozen weight of a layer, where an adapter packs those; else None.
    """

    network: Any
    precision: Precision
    mode: FakeTensorMode
    packed_bytes: float | None

    @property
    def num_trained(self) -> int:
        """Weights that train."""
        return sum(each.numel() for each in self._trained())

    @property
    def num_weights(self) -> int:
        """All weights."""
        return sum(each.numel() for each in self.network.parameters())

    @property
    def num_multiplied(self) -> int:
        """Weights of products that each token takes part in."""
        head = self.network.get_output_embeddings().weight
        return sum(each.numel() for each in self.layers()) + int(head.numel())

    @property
    def trained_bytes(self) -> int:
        """Bytes of the weights that train."""
        return sum(map(_num_bytes, self._trained()))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, as loaded."""
        whole = sum(map(_num_bytes, self.network.parameters()))
        if self.packed_bytes is None:
            return whole
        saved = (_num_bytes(each) - each.numel() * self.packed_bytes for each in self._packed())
        return int(whole - sum(saved))

    @property
    def unpacked_bytes(self) -> int:
        """Bytes of the largest packed matrix when it is computed with; 0 where none is packed."""
        if self.packed_bytes is None:
            return 0
        return max(each.numel() * self.precision.dtype.itemsize for each in self._packed())

    @property
    def vocabulary(self) -> int:
        """Rows of the output head."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    @property
    def width(self) -> int:
        """Of the stream between layers."""
        return int(self.network.config.get_text_config().hidden_size)

    @property
    def key_width(self) -> int:
        """Numbers in a token's keys and values in one layer."""
        return key_width(self.network.config.get_text_config())

    def layers(self) -> list[nn.Parameter]:
        """The weights of all linear layers but the head."""
        found: list[Any] = [each.weight for each in linear_layers(self.network).values()]
        return found

    def bytes_kept(self, num_tokens: int) -> int:
        """Bytes that a forward pass of so many tokens keeps for its backward pass."""
        own = {_storage(weight) for weight in self.network.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in own:
                kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        self.network.train()
        counting = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with self.mode, computing(self.precision, torch.device("cpu")), counting:
            ids = torch.ones((1, num_tokens), dtype=torch.long)
            # held until counted, or the memory of one tensor is counted as that of another
            alive = self.network(input_ids=ids, use_cache=False)
        num_bytes = sum(kept.values())
        del alive
        return num_bytes

    @property
    def may_be_quick(self) -> bool:
        """Whether quick layers stand for its own, as far as can be known without its numbers."""
        if self.packed_bytes is not None:
            return False
        stored = self.network.get_input_embeddings().weight.dtype
        is_as_stored = not self.precision.is_mixed or stored == self.precision.dtype
        return is_as_stored and is_known_kind(self.network)

    def quick_bytes_kept(self) -> int:
        """Bytes that a token keeps for the backward pass of quick layers, and of the last norm."""
        layers = list(backbone_of(self.network).layers)[num_frozen(self.network) :]
        return sum(map(kept_bytes, layers)) + NORM_BYTES * self.width

    def _trained(self) -> list[nn.Parameter]:
        return [weight for weight in self.network.parameters() if weight.requires_grad]

    def _packed(self) -> list[nn.Parameter]:
        return [each for each in self.layers() if not each.requires_grad]


def outline_of(config: Any, settings: ModelSettings) -> Outline:
    """Build a model with its adapter.

    Args:
        config: of Transformers; no file of weights is read.
        settings: which adapter, which number format.

    Raises:
        ModelError: it is of no known kind, or it cannot carry the adapter.
    """
    precision, mode = choose(settings.dtype), FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(
                config,
                dtype=loaded_dtype(settings),
                # the kernels of all others keep what this one keeps
                attn_implementation="eager" if settings.attention == "eager" else None,
                trust_remote_code=settings.trust_remote_code,
            )
            network = _plain(settings).apply(network, freeze_layers=settings.freeze_layers, seed=0)
            settle(network, precision)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        name = config.name_or_path or config.model_type
        raise ModelError(f"{name}: nothing can be known of this model: {error}") from error
    _pretend(network, mode)
    return Outline(network, precision, mode, _packed_bytes(settings))


def _packed_bytes(settings: ModelSettings) -> float | None:
    adapter: Any = settings.adapter
    bits = getattr(adapter, "bits", None)
    if bits is None:
        return None
    return bits / 8 + (SCALES[adapter.double_quant] if bits == 4 else 0.0)


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
    """The adapter, with a start of the same size that looks at no numbers and no texts."""
    adapter: Any = settings.adapter
    if getattr(adapter, "text", None) is not None:
        return adapter.model_copy(update={"text": None})
    if not getattr(adapter, "is_principal", False):
        return adapter
    return adapter.model_copy(update={"init": "default", "rank": 2 * adapter.rank})


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor has: without numbers it has no address."""
    return int(tensor.untyped_storage()._cdata)
