"""Linear layers that share an input, each with its LoRA pairs: forward and backward by hand.

The gradients of A and B come from products of [tokens, rank] alone, and every product is written in
the order and layout in which it is cheap: (x A^T) B^T, never x (B A)^T.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

Gradients = dict[int, Tensor]
"""By `id` of the weight."""


@dataclass(frozen=True)
class Pair:
    """A LoRA pair: s B A beside a weight.

    Attributes:
        down: [rank, in] A.
        up: [out, rank] B.
        scale: s.
    """

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class AdaptedLinear:
    """A linear layer as it is at the moment.

    Attributes:
        weight: [out, in].
        bias: [out] or None.
        pairs: that apply.
        downs: [ranks, in] all A, in the format of the weight.
        ups: [ranks, out] all s B^T, in the format of the weight.
    """

    weight: Tensor
    bias: Tensor | None
    pairs: tuple[Pair, ...]
    downs: Tensor
    ups: Tensor

    @property
    def rank(self) -> int:
        """Of all pairs together."""
        return len(self.downs)

    def weights(self) -> list[Tensor]:
        """All that may train."""
        own = [self.weight] if self.bias is None else [self.weight, self.bias]
        return [*own, *(each for pair in self.pairs for each in (pair.down, pair.up))]


@dataclass(frozen=True)
class LinearSize:
    """How large a linear layer is.

    Attributes:
        num_inputs: features it takes.
        num_outputs: features it gives.
        rank: of all its LoRA pairs together.
        num_bytes: of a number of its weight.
    """

    num_inputs: int
    num_outputs: int
    rank: int
    num_bytes: int


def size_of(module: Any) -> LinearSize:
    """The size of a layer for which `is_readable` is true."""
    is_plain = type(module) is nn.Linear
    weight = module.weight if is_plain else module.base_layer.weight
    pairs = () if is_plain else module.lora_A.values()
    rank = sum(len(down.weight) for down in pairs)
    return LinearSize(weight.shape[1], weight.shape[0], rank, weight.element_size())


def is_readable(module: Any) -> bool:
    """Whether `product_of` can tell what a linear layer does, whatever is switched on in it."""
    if type(module) is nn.Linear:
        return True
    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear:
        return False
    is_plain = not module.lora_variant and not any(module.lora_bias.values())
    return is_plain and all(isinstance(each, nn.Identity) for each in module.lora_dropout.values())


def adds_nothing(module: Any) -> bool:
    """Whether no adapter of a layer changes what it computes: each B is zero, as at its start.

    Args:
        module: for which `is_readable` is true.
    """
    return type(module) is nn.Linear or not any(
        bool(part.weight.any()) for part in module.lora_B.values()
    )


def product_of(module: Any, *, is_bare: bool = False) -> AdaptedLinear:
    """The layer with the adapters that are active in it.

    Args:
        module: for which `is_readable` is true.
        is_bare: leave its adapters out.
    """
    if type(module) is nn.Linear:
        return _product(module, ())
    if is_bare:
        return _product(module.base_layer, ())
    names: Sequence[str] = (
        () if module.disable_adapters or module.merged else module.active_adapters
    )
    pairs = (
        Pair(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])
        for name in names
        if name in module.lora_A
    )
    return _product(module.base_layer, tuple(pairs))


def _product(layer: nn.Linear, pairs: tuple[Pair, ...]) -> AdaptedLinear:
    weight = layer.weight
    with torch.no_grad():
        downs = [pair.down.to(weight.dtype) for pair in pairs]
        ups = [(pair.up * pair.scale).to(weight.dtype).t().contiguous() for pair in pairs]
        return AdaptedLinear(
            weight,
            layer.bias,
            pairs,
            _rows(downs, weight.shape[1], weight),
            _rows(ups, weight.shape[0], weight),
        )


def _rows(parts: list[Tensor], width: int, like: Tensor) -> Tensor:
    if not parts:
        return like.new_empty(0, width)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class Products:
    """Layers that read the same.

    Attributes:
        parts: the layers.
        downs: [ranks of all, in].
    """

    parts: tuple[AdaptedLinear, ...]
    downs: Tensor

    @classmethod
    def of(cls, *modules: Any, is_bare: bool = False) -> "Products":
        """Out of modules that are readable; bare ones are without their adapters."""
        parts = tuple(product_of(module, is_bare=is_bare) for module in modules)
        some = [part.downs for part in parts if part.rank]
        width = parts[0].weight.shape[1]
        return cls(parts, _rows(some, width, parts[0].weight))

    def forward(
        self, x: Tensor, outs: Sequence[Tensor | None], residual: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """All outputs.

        Args:
            x: [tokens, in].
            outs: [tokens, out] where each output goes; None for a new tensor.
            residual: [tokens, out] added to the outputs.

        Returns:
            [tokens, out] each, and [tokens, ranks] x A^T, which the backward pass needs.
        """
        low = x @ self.downs.t()
        start, made = 0, []
        for part, out in zip(self.parts, outs, strict=True):
            weight = part.weight.t()
            added = residual if residual is not None else part.bias
            if added is None:
                y = torch.mm(x, weight) if out is None else torch.mm(x, weight, out=out)
            else:
                y = (
                    torch.addmm(added, x, weight)
                    if out is None
                    else torch.addmm(added, x, weight, out=out)
                )
                if residual is not None and part.bias is not None:
                    y += part.bias
            if part.rank:
                y.addmm_(low[:, start : start + part.rank], part.ups)
                start += part.rank
            made.append(y)
        return made, low

    def backward(
        self,
        x: Tensor,
        low: Tensor,
        grads: Sequence[Tensor],
        found: Gradients,
        *,
        needs_input: bool,
    ) -> Tensor | None:
        """The gradient of x; those of weights are put into `found`.

        Args:
            x: [tokens, in] as in the forward pass.
            low: see `forward`.
            grads: [tokens, out] of each output.
            found: gets the gradients of the weights that train.
            needs_input: whether the gradient of x is wanted.
        """
        result: Tensor | None = None
        pulled = []
        start = 0
        for part, grad in zip(self.parts, grads, strict=True):
            if needs_input:
                result = grad @ part.weight if result is None else result.addmm_(grad, part.weight)
            if part.weight.requires_grad:
                found[id(part.weight)] = grad.t() @ x
            if part.bias is not None and part.bias.requires_grad:
                found[id(part.bias)] = grad.sum(0)
            if not part.rank:
                continue
            pulled.append(grad @ part.ups.t())
            _to_ups(part, low[:, start : start + part.rank], grad, found)
            start += part.rank
        if pulled:
            whole = pulled[0] if len(pulled) == 1 else torch.cat(pulled, 1)
            self._to_downs(whole, x, found)
            if result is not None:
                result.addmm_(whole, self.downs)
        return result

    def _to_downs(self, pulled: Tensor, x: Tensor, found: Gradients) -> None:
        pairs = [pair for part in self.parts for pair in part.pairs]
        if not any(pair.down.requires_grad for pair in pairs):
            return
        rows = torch.split(pulled.t() @ x, [len(pair.down) for pair in pairs])
        for pair, row in zip(pairs, rows, strict=True):
            if pair.down.requires_grad:
                found[id(pair.down)] = row.to(pair.down.dtype)

    def weights(self) -> list[Tensor]:
        """All that may train."""
        return [weight for part in self.parts for weight in part.weights()]


def _to_ups(part: AdaptedLinear, low: Tensor, grad: Tensor, found: Gradients) -> None:
    """The gradients of B, as [rank, out]: the other way round the product is many times slower."""
    if not any(pair.up.requires_grad for pair in part.pairs):
        return
    rows = torch.split(low.t() @ grad, [len(pair.down) for pair in part.pairs])
    for pair, row in zip(part.pairs, rows, strict=True):
        if pair.up.requires_grad:
            found[id(pair.up)] = row.mul_(pair.scale).t().to(pair.up.dtype)
