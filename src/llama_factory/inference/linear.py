"""Products with the weights of linear layers, by the fastest kernel there is for few rows."""

import math
import time
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from llama_factory.core.errors import ConfigError
from llama_factory.inference.settings import Weights
from llama_factory.model.dtypes import fast_bfloat16

PACKED_ROWS = 16
"""Rows that a packed weight is laid out for; any number may come."""

FEW_ROWS = 2
"""Rows up to which torch's own product may be the faster one."""
TRIED, NUM_TRIED = (1536, 576), 24
"""The shape and the number of the weights on which that is measured: 85 MB."""
CLEARLY = 0.85

MOST = 127
"""Largest int8 value used; the range is the same on both sides of 0."""
MOST_PAIR = 128
"""Two neighbours of a weight's row may add up to so much: processors without VNNI sum two products
with an unsigned byte in 16 bits, and 255 * 128 still fits."""
ROTATED = 64
"""Widest block of inputs that is rotated together."""
FINE = 2**16
"""Inputs are rounded to so many steps before they are rotated: sums of 64 such numbers are exact in
float32, in whatever order a kernel adds them."""
TINY = torch.finfo(torch.float32).tiny
ENGINE = "fbgemm"


ROUNDED = ((8, 1), (32, 4), (64, 8), (256, 32))
LARGEST_STEP = 128
"""Up to how many rows their number is rounded up to a multiple of what; and of more rows."""


def _linear(*inputs: Any) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise.default(*inputs)
    return result


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

    def changed(self, change: Tensor) -> "Product | None":
        """A product of its own with the weight and a change of it, rounded to the same format.

        Args:
            change: [out, in] in float32, to be added.

        Returns:
            None where the rounding would be much coarser than what is added.
        """


def product(
    weight: Tensor, bias: Tensor | None, weights: Weights, *, plain: Sequence[Tensor] = ()
) -> Product:
    """The product with a weight, in the number format of the settings.

    Args:
        weight: [out, in]; its device is that of the product. It is copied where its format or
            layout changes, so that it may be freed.
        bias: [out].
        weights: number format.
        plain: the weight's rows as they were read, in parts, to be kept for products of one or two
            rows where another layout is used: twice the memory. None: they are not kept.

    Raises:
        ConfigError: this device has no fast products in that format.
    """
    if weights == "int8":
        _require_int8(weight.device)
        return _Int8(weight.detach().float(), None if bias is None else bias.detach().float())
    dtype = weight.dtype if weights == "auto" else getattr(torch, weights)
    weight = weight.detach().to(dtype)
    bias = None if bias is None else bias.detach().to(dtype)
    if weight.device.type == "cpu" and can_pack(dtype):
        return _Packed(weight, bias, plain)
    return _Plain(weight, bias)


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor has fast products with weights of a format that lie in blocks."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(fast_bfloat16()))


class _Plain:
    """Torch's own product, in the format of the weight."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._weight, self._bias = weight, bias

    @property
    def num_bytes(self) -> int:
        return self._weight.nbytes + _num_bytes(self._bias)

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self._weight.dtype), self._weight, self._bias).to(x.dtype)

    def changed(self, change: Tensor) -> Product:
        return _Plain((self._weight.float() + change).to(self._weight.dtype), self._bias)


def _rounded(num_rows: int) -> int:
    """The next of few numbers of rows: oneDNN compiles and keeps a kernel for each that it meets,
    which takes time and a third of a megabyte."""
    step = next((step for most, step in ROUNDED if num_rows <= most), LARGEST_STEP)
    return -(-num_rows // step) * step


class _Packed:
    """oneDNN's product with a weight that is laid out in blocks once, not at each call.

    For 4 to 64 rows it takes about half the time of torch's own product; with float32 and one or
    two rows it is the slower one on some processors, which `plain_suits_few_rows` finds out.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, plain: Sequence[Tensor] = ()) -> None:
        self._num_bytes = weight.nbytes * (1 + bool(plain)) + _num_bytes(bias)
        self._plain = [part.detach().float() for part in plain]
        self._dtype = weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)
        self._bias = bias
        self._num_outputs = weight.shape[0]

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        *outer, num_inputs = x.shape
        num_given = x.numel() // num_inputs
        if not num_given:
            return x.new_empty(*outer, self._num_outputs)
        rows = x.reshape(num_given, num_inputs)
        rows = rows.to(self._dtype)
        if self._plain and num_given <= FEW_ROWS:
            return self._few(rows).view(*outer, self._num_outputs).to(x.dtype)
        num_rows = _rounded(num_given)
        if num_rows > num_given:
            rows = F.pad(rows, (0, 0, 0, num_rows - num_given))
        result: Tensor = _linear(rows, self._weight, self._bias, "none", [], "")
        if num_rows > num_given:
            result = result[:num_given]
        return result.view(*outer, self._num_outputs).to(x.dtype)

    def changed(self, change: Tensor) -> Product:
        weight = (self._weight.to_dense().float() + change).to(self._dtype)
        return _Packed(weight, self._bias)

    def _few(self, rows: Tensor) -> Tensor:
        if len(self._plain) == 1:
            return F.linear(rows, self._plain[0], self._bias)
        result = torch.cat([F.linear(rows, part) for part in self._plain], -1)
        return result if self._bias is None else result.add_(self._bias)


@lru_cache(maxsize=1)
def plain_suits_few_rows() -> bool:
    """Whether torch's own product with one row is clearly faster here than the packed one.

    Measured once, in about a fifth of a second, on more weights than a cache holds.
    """
    if not can_pack(torch.float32):
        return False
    weights = [torch.randn(TRIED) for _ in range(NUM_TRIED)]
    x = torch.randn(1, TRIED[1])
    packed = [_Packed(weight, None) for weight in weights]
    plain = [_Plain(weight, None) for weight in weights]

    def seconds(products: Sequence[Product]) -> float:
        began = time.perf_counter()
        for each in products:
            each(x)
        return time.perf_counter() - began

    with torch.inference_mode():
        pairs = [(seconds(plain), seconds(packed)) for _ in range(5)]
    fastest = [min(pair[n] for pair in pairs[1:]) for n in (0, 1)]
    return fastest[0] < CLEARLY * fastest[1]


class _Int8:
    """Weights of 8 bits with a scale for each output, rows of 8 bits with a scale for each row.

    Inputs and weights are rotated by the same orthogonal matrix first, which changes no product and
    spreads outliers over their block: Ashkboos et al. 2024, QuaRot, section 4,
    https://arxiv.org/abs/2404.00456. There the matrix spans all inputs; blocks of them are faster.
    A row has its own scales, and all sums are of integers and exact, so that its result is the same
    in any batch.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        outputs, inputs = weight.shape
        self._rotation = _hadamard(min(inputs & -inputs, ROTATED))
        self._packed = _pack(self._rotated(weight) / len(self._rotation))
        self._bias = bias
        self._num_outputs = outputs
        # per output: its scale, its offset and the sum of its row
        self._num_bytes = outputs * inputs + 12 * outputs + _num_bytes(bias)

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def __call__(self, x: Tensor) -> Tensor:
        if not x.numel():
            return x.new_empty(*x.shape[:-1], self._num_outputs)
        rows, fine = _integers(x.reshape(-1, x.shape[-1]).float(), FINE)
        rows, coarse = _integers(self._rotated(rows), MOST)
        result: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            rows, 1.0, MOST + 1, self._packed
        )
        result.mul_(fine.mul_(coarse))
        if self._bias is not None:
            result.add_(self._bias)
        return result.view(*x.shape[:-1], -1).to(x.dtype)

    def changed(self, change: Tensor) -> None:
        return None

    def _rotated(self, rows: Tensor) -> Tensor:
        return (rows.reshape(-1, len(self._rotation)) @ self._rotation).view(rows.shape)


def _integers(rows: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Each row as a scale times whole numbers of at most `most`: [rows, in] and [rows, 1]."""
    scale = torch.linalg.vector_norm(rows, math.inf, -1, keepdim=True)
    scale.mul_(1 / most).clamp_(min=TINY)
    return (rows / scale).round_(), scale


def _hadamard(size: int) -> Tensor:
    """The symmetric matrix of +-1 whose square is `size`, a power of 2 (Sylvester)."""
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([matrix.repeat(1, 2), torch.cat([matrix, -matrix], 1)])
    return matrix


def _pack(weight: Tensor) -> Any:
    """Round each row of a weight to int8, by a scale at which no sum of 16 bits overflows."""
    pairs = F.pad(weight, (0, weight.shape[1] % 2)).view(len(weight), -1, 2)
    sums = torch.maximum(pairs.clamp(min=0).sum(-1), pairs.clamp(max=0).sum(-1).abs()).amax(1)
    # each of two may be rounded up by a half
    scale = torch.maximum(weight.abs().amax(1) / MOST, sums / (MOST_PAIR - 0.5)).clamp(min=TINY)
    values = torch.round(weight / scale[:, None]).to(torch.int8)
    offsets = torch.zeros(len(weight), dtype=torch.long)
    with warnings.catch_warnings():
        # torch means to drop quantized tensors; its other int8 product takes three times as long
        warnings.simplefilter("ignore")
        quantized = torch._make_per_channel_quantized_tensor(values, scale.double(), offsets, 0)
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = ENGINE  # the packed layout has the products of this one alone
    try:
        return torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = before


def _require_int8(device: torch.device) -> None:
    """Refuse where there are no fast products.

    Raises:
        ConfigError: the weights are not on a CPU that has them.
    """
    has_products = ENGINE in torch.backends.quantized.supported_engines
    if device.type != "cpu" or not has_products:
        where = "this processor is none" if device.type == "cpu" else f"the model is on {device}"
        raise ConfigError(
            f"inference.weights: 'int8' is fast on x86 processors only; {where}. Use 'auto'."
        )


def _num_bytes(bias: Tensor | None) -> int:
    return 0 if bias is None else bias.nbytes
