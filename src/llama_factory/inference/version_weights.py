"""One base model in memory that reads each sequence with the weights of its version.

The products with the base weights are computed once for all rows of a pass. The LoRA matrices of
the versions that take part lie one below the other: one product with all of them, of which each
row keeps those of its version, and one product back. A version that answers alone is read with
merged weights of its own, where there is memory for them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from collections.abc import Sequence as Several
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from llama_factory.core.errors import ModelError
from llama_factory.inference.blocks import JOINED, plain_blocks, quicken, widen
from llama_factory.inference.linear import Product, plain_suits_few_rows, product
from llama_factory.inference.packed import PackedNetwork, Span
from llama_factory.inference.settings import Weights
from llama_factory.model.free_memory import free_bytes, give_back_freed
from llama_factory.model.layers import LINEAR
from llama_factory.model.lora_weights import LoraMatrices

MAX_STACKS = 8
"""Sets of versions whose matrices are kept one below the other."""

Chain = Several[Mapping[str, LoraMatrices]]
"""The adapters of one version, whose products add up: its own, and those consolidated under it."""

Parts = Several[tuple[int, LoraMatrices]]
"""Matrices, each with the number of its layer among those that are computed together."""

Merged = Mapping["VersionedLinear", Product]
"""The products with the merged weights of one version."""

SHARE_OF_FREE = 0.125
"""Of the free memory, at most so much for another copy of the weights."""


@dataclass
class _Active:
    """Whose weights the tokens of a pass are read with.

    Attributes:
        names: the versions that take part, but for the base model.
        owners: [tokens] index in `names`, or -1 for the base model; None where all have the same.
        kept: the same of the tokens that the output head sees.
        alone: the version that all tokens are read with; empty where there are several.
        masks: by whether it is for the head, and by the ranks of the versions, [tokens, sum of
            ranks] which products a token does not keep.
    """

    names: tuple[str, ...] = ()
    owners: Tensor | None = None
    kept: Tensor | None = None
    alone: str = ""
    masks: dict[tuple[bool, tuple[int, ...]], Tensor] = field(default_factory=dict)

    def mask(self, ranks: tuple[int, ...], is_head: bool, like: Tensor) -> Tensor | None:
        owners = self.kept if is_head else self.owners
        if owners is None:
            return None
        key = (is_head, ranks)
        if key not in self.masks:
            columns = torch.arange(len(ranks)).repeat_interleave(torch.tensor(ranks))
            mask = owners[:, None] != columns[None]
            self.masks[key] = mask.to(like.device)
        return self.masks[key]


IN_CACHE = 64_000_000
"""Bytes of weights that stay in a cache from pass to pass, where their layout matters little."""


@dataclass(frozen=True)
class _Stack:
    """Matrices of several versions: [in, sum of ranks] and [sum of ranks, out]."""

    down: Tensor
    up: Tensor
    ranks: tuple[int, ...]


class VersionedLinear(nn.Module):
    """Linear layers that read the same input, with the LoRA matrices of all versions.

    Their outputs lie one behind the other.
    """

    def __init__(
        self,
        layers: Several[nn.Module],
        weights: Weights,
        active: _Active,
        dtype: torch.dtype,
        *,
        is_head: bool = False,
        keeps_plain: bool = False,
    ) -> None:
        """Take layers over.

        Args:
            layers: none of them is used by others.
            weights: number format of their product.
            active: whose weights the tokens of a pass are read with.
            dtype: of inputs and outputs, and of the versions' matrices.
            is_head: whether it gives the logits.
            keeps_plain: see `product`.
        """
        super().__init__()
        self._is_head = is_head
        parts = [_weight_of(layer) for layer in layers]
        self.shapes = [(part.shape[0], part.shape[1]) for part in parts]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.product: Product = product(
            weight, _bias_of(layers, weight), weights, plain=parts if keeps_plain else ()
        )
        self._like = weight.new_empty(0, dtype=dtype)
        self._active = active
        self._versions: dict[str, LoraMatrices] = {}
        self._merged: dict[str, Product] = {}
        self._stacks: OrderedDict[tuple[str, ...], _Stack | None] = OrderedDict()

    def add(self, version: str, parts: Parts, merged: Product | None = None) -> None:
        """Take the matrices of a version. Several of one layer add up.

        Args:
            version: its name.
            parts: its matrices.
            merged: what `merge` made of them.
        """
        self._versions[version] = self._joined(parts)
        self.forget_merged(version)
        if merged is not None:
            self._merged[version] = merged
        self._stacks.clear()

    def merge(self, parts: Parts) -> Product | None:
        """The product with weights that matrices are added to; None where none is made."""
        matrices = self._joined(parts)
        return self.product.changed(matrices.up.float().t() @ matrices.down.float())

    def forget_merged(self, version: str) -> None:
        """Read a version with its matrices from now on."""
        self._merged.pop(version, None)

    def _joined(self, parts: Parts) -> LoraMatrices:
        """Matrices of all layers: [sum of ranks, in] and [sum of ranks, sum of out]."""
        down = torch.cat([each.down.to(self._like) for _, each in parts])
        up = self._like.new_zeros(len(down), sum(outputs for outputs, _ in self.shapes))
        rank = 0
        for number, each in parts:
            first = sum(outputs for outputs, _ in self.shapes[:number])
            rows, columns = each.down.shape[0], each.up.shape[0]
            up[rank : rank + rows, first : first + columns] = each.up.to(self._like).t()
            rank += rows
        return LoraMatrices(down, up)

    def remove(self, version: str) -> None:
        """Forget a version."""
        self.forget_merged(version)
        if self._versions.pop(version, None):
            self._stacks.clear()

    def forward(self, x: Tensor) -> Tensor:
        """x: [1, tokens, in]."""
        if self._merged and (merged := self._merged.get(self._active.alone)) is not None:
            return merged(x)
        y = self.product(x)
        stack = self._stack(self._active.names) if self._active.names else None
        if stack is None:
            return y
        rows = x.reshape(-1, x.shape[-1])
        inner = rows @ stack.down  # [tokens, ranks]
        mask = self._active.mask(stack.ranks, self._is_head, inner)
        if mask is not None:
            # Not multiplied by 0: what another version's matrices make of a row may be infinite.
            inner.masked_fill_(mask, 0)
        y.view(-1, y.shape[-1]).addmm_(inner, stack.up)
        return y

    def _stack(self, names: tuple[str, ...]) -> _Stack | None:
        if names not in self._stacks:
            self._stacks[names] = self._stacked(names)
            if len(self._stacks) > MAX_STACKS:
                self._stacks.popitem(last=False)
        self._stacks.move_to_end(names)
        return self._stacks[names]

    def _stacked(self, names: tuple[str, ...]) -> _Stack | None:
        parts = [self._versions.get(name) for name in names]
        own = [part for part in parts if part is not None]
        if not own:
            return None
        ranks = tuple(0 if part is None else part.down.shape[0] for part in parts)
        # laid out as they are multiplied: half the time for a few rows
        down = torch.cat([part.down for part in own]).t().contiguous()
        return _Stack(down, torch.cat([part.up for part in own]), ranks)


def _weight_of(layer: nn.Module) -> Tensor:
    """[out, in]"""
    weight = layer.weight.t() if isinstance(layer, Conv1D) else layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _bias_of(layers: Several[nn.Module], weight: Tensor) -> Tensor | None:
    """[sum of out], 0 where a layer has none; None where none has one."""
    biases = [layer.bias if isinstance(layer.bias, Tensor) else None for layer in layers]
    if all(bias is None for bias in biases):
        return None
    pairs = zip(layers, biases, strict=True)
    zeros = (weight.new_zeros(_weight_of(layer).shape[0]) for layer, _ in pairs)
    return torch.cat(
        [zero if bias is None else bias.detach() for zero, bias in zip(zeros, biases, strict=True)]
    )


class VersionedNetwork(PackedNetwork):
    """A base model and the LoRA matrices of its versions. See `SequenceReader`."""

    def __init__(self, network: Any, weights: Weights, most_merged: int = 0) -> None:
        """Take a base model over; its linear layers are replaced.

        Args:
            network: for which `can_pack` is true.
            weights: number format of its products.
            most_merged: versions that may have merged weights at once.
        """
        super().__init__(network)
        self._active = _Active()
        self._layers: dict[str, tuple[VersionedLinear, int]] = {}
        self._versions: set[str] = set()
        self._most_merged = most_merged
        self._merged: OrderedDict[str, None] = OrderedDict()  # the least recently used first
        self._weights, self._has_plain = weights, self._keeps_plain(weights)
        is_wide = widen(network)
        self.dtype = torch.float32 if is_wide else network.dtype
        blocks = plain_blocks(network)
        joined = {name: self._join(name) for name in blocks}
        head = network.get_output_embeddings()
        for name, layer in list(network.named_modules()):
            # Likeliest tokens are compared in float32, and a head for coarse states does that.
            is_kept = layer is head and self.dtype != torch.float32
            if type(layer) in LINEAR and not is_kept:
                network.set_submodule(name, self._take([name], is_head=layer is head))
        for name, block in blocks.items():
            quicken(block, *joined[name])

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every linear layer that a version may change."""
        return {name: layer.shapes[number] for name, (layer, number) in self._layers.items()}

    @property
    def merged(self) -> tuple[str, ...]:
        """The versions that have merged weights, the one that was read longest ago first."""
        return tuple(self._merged)

    def _join(self, block: str) -> list[VersionedLinear]:
        """Take over what reads the same input in a block; the layers themselves are freed."""
        taken = []
        for names in JOINED:
            taken.append(self._take([f"{block}.{name}" for name in names]))
            for name in names:
                self._network.set_submodule(f"{block}.{name}", nn.Identity())
        return taken

    def _take(self, names: Several[str], *, is_head: bool = False) -> VersionedLinear:
        layers = [self._network.get_submodule(name) for name in names]
        weights = "float32" if is_head and self._weights != "int8" else self._weights
        plain = self._has_plain
        how = (weights, self._active, self.dtype)
        taken = VersionedLinear(layers, *how, is_head=is_head, keeps_plain=plain)
        self._layers |= {name: (taken, number) for number, name in enumerate(names)}
        return taken

    def _keeps_plain(self, weights: Weights) -> bool:
        """Whether weights are kept in two layouts: it helps here, and there is much memory.

        Where versions have merged weights that memory is theirs, and single rows are as fast.
        """
        of_linear = [m.weight for m in self._network.modules() if type(m) in LINEAR]
        is_float32 = all(each.dtype == torch.float32 for each in of_linear)
        if weights == "int8" or self.device.type != "cpu" or not is_float32 or self._most_merged:
            return False
        num_bytes = sum(each.nbytes for each in of_linear)
        fits = IN_CACHE < num_bytes < SHARE_OF_FREE * free_bytes(self.device)
        return fits and plain_suits_few_rows()

    def merge(self, chain: Chain) -> Merged:
        """Add a version's matrices to copies of the weights; on any thread, while others read.

        The version that was read longest ago gives up its copies for it. Nothing is merged where
        memory is short, or in a number format that would be coarser than what is added.

        Raises:
            ModelError: they are of another model.
        """
        parts = self._parts(chain)
        num_bytes = sum(layer.product.num_bytes for layer in parts)
        if not self._most_merged or num_bytes > SHARE_OF_FREE * free_bytes(self.device):
            return {}
        while len(self._merged) >= self._most_merged:
            oldest, _ = self._merged.popitem(last=False)
            for layer in self._all_layers():
                layer.forget_merged(oldest)
        merged = {layer: layer.merge(several) for layer, several in parts.items()}
        give_back_freed()  # of each layer in float32, and of copies that were given up
        return {layer: each for layer, each in merged.items() if each is not None}

    def add(self, version: str, chain: Chain, merged: Merged | None = None) -> None:
        """Take a version's matrices.

        Args:
            version: its name.
            chain: its matrices.
            merged: what `merge` made of them.

        Raises:
            ModelError: they are of another model.
        """
        merged = merged or {}
        for layer, several in self._parts(chain).items():
            layer.add(version, several, merged.get(layer))
        self._versions.add(version)
        self._merged.pop(version, None)
        if merged:
            self._merged[version] = None

    def remove(self, version: str) -> None:
        """Forget a version."""
        self._versions.discard(version)
        self._merged.pop(version, None)
        for layer in self._all_layers():
            layer.remove(version)

    def _all_layers(self) -> set[VersionedLinear]:
        return {layer for layer, _ in self._layers.values()}

    def _parts(self, chain: Chain) -> dict[VersionedLinear, list[tuple[int, LoraMatrices]]]:
        """Matrices by the layers that are computed together.

        Raises:
            ModelError: they are of another model.
        """
        parts: dict[VersionedLinear, list[tuple[int, LoraMatrices]]] = {}
        for matrices in chain:
            for name, each in matrices.items():
                self._require_fit(name, each)
                layer, number = self._layers[name]
                parts.setdefault(layer, []).append((number, each))
        return parts

    def _require_fit(self, name: str, matrices: LoraMatrices) -> None:
        shape = (matrices.up.shape[0], matrices.down.shape[1])
        own = self.shapes.get(name)
        if own != shape:
            what = f"its shape is {own}" if own else "has no such linear layer"
            raise ModelError(
                f"the adapter changes {name} with shape {shape}, and the base model {what}: it "
                "belongs to another model"
            )
        if not (matrices.up.isfinite().all() and matrices.down.isfinite().all()):
            raise ModelError(f"the adapter's weights of {name} are no numbers (NaN or infinite)")

    def _run(self, order: Several[Span], keep: Tensor, **more: Any) -> Any:
        versions = [span.sequence.version for span in order]
        names = tuple(sorted({*versions} & self._versions))
        self._active.names, self._active.masks = names, {}
        self._active.owners = self._active.kept = None
        self._active.alone = versions[0] if len({*versions}) == 1 else ""
        with suppress(KeyError):  # `merge` on another thread takes some out
            self._merged.move_to_end(self._active.alone)
        if len({*versions}) > 1:
            index = {name: number for number, name in enumerate(names)}
            sizes = torch.tensor([len(span.ids) for span in order])
            owners = torch.tensor([index.get(version, -1) for version in versions])
            owners = owners.repeat_interleave(sizes)
            self._active.owners = owners
            self._active.kept = owners[keep] if "logits_to_keep" in self._accepted else owners
        return super()._run(order, keep, **more)
