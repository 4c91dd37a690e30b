"""Products with the weights of linear layers, by the fastest kernel there is for few rows."""

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from llama_factory.inference.settings import Weights

PACKED_ROWS = 16
"""Rows that a packed weight is laid out for; any number may come."""


class Product(Protocol):
    """x -> x W^T + b, for inference only.

    A row's result depends on no other row, but for the order in which float products are summed.
    """

    @property
    def num_bytes(self) -> int:
        """Memory that the weight and the bias take."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply it.

        Args:
            x: [..., in], of any floating format.

        Returns:
            [..., out] in the format of x.
        """


def product(weight: Tensor, bias: Tensor | None, weights: Weights) -> Product:
    """The product with a weight, in the number format of the settings.

    Args:
        weight: [out, in]; its device is that of the product. It is copied where its format or
            layout changes, so that it may be freed.
        bias: [out].
        weights: number format.
    """
    dtype = weight.dtype if weights == "auto" else getattr(torch, weights)
    weight = weight.detach().to(dtype)
    bias = None if bias is None else bias.detach().to(dtype)
    if dtype == torch.float32 and weight.device.type == "cpu" and _can_pack():
        return _Packed(weight, bias)
    return _Plain(weight, bias)


def _can_pack() -> bool:
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(torch.ops.mkldnn, name) for name in names)


class _Plain:
    """Torch's own product, in the format of the weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    @property
    def num_bytes(self) -> int:
        return self._weight.nbytes + _num_bytes(self._bias)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight, self._bias).to(x.dtype)


class _Packed:
    """oneDNN's product with a float32 weight that is laid out in blocks once, not at each call.

    For 2 to 64 rows it takes about half the time of torch's own product.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._num_bytes = weight.nbytes + _num_bytes(bias)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)
        self._bias = bias
        self._num_outputs = weight.shape[0]

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self._num_outputs)
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            x.float(), self._weight, self._bias, "none", [], ""
        )
        return result.to(x.dtype)


def _num_bytes(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.nbytes
