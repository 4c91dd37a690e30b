"""Normalisation, rotation and gating, forward and backward, in as few passes over memory as can be.

Values are read once and written once where torch has an operation for it; what is cheap to compute
again is not kept.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def inverse_size(x: Tensor, epsilon: float) -> Tensor:
    """[tokens, 1] one over the root mean square of each row, in float32 or better.

    Args:
        x: [tokens, width].
        epsilon: added to the mean square.
    """
    exact = torch.promote_types(x.dtype, torch.float32)
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=exact)
    return size.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


def normalised(x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """[tokens, width] rows of mean square 1, times the weight: Zhang and Sennrich 2019."""
    if x.dtype == inverse.dtype:
        return torch.mul(x, inverse).mul_(weight)
    return torch.mul(x, inverse).to(x.dtype).mul_(weight)


def normalised_back(
    grad: Tensor, x: Tensor, inverse: Tensor, weight: Tensor, residual: Tensor
) -> Tensor:
    """The gradient of x, with that of the stream beside the block added.

    Args:
        grad: [tokens, width] of the normalised rows.
        x: see `normalised`.
        inverse: of the forward pass.
        weight: see `normalised`.
        residual: [tokens, width] the gradient that reaches x on another way.
    """
    exact = inverse.dtype
    pulled = grad.to(exact) * weight
    along = torch.linalg.vecdot(pulled, x.to(exact)).unsqueeze(-1)
    shrink = along.mul_(inverse**3).div_(x.shape[-1])
    summed = torch.addcmul(residual.to(exact), pulled, inverse)
    return summed.addcmul_(x.to(exact), shrink, value=-1).to(x.dtype)


def norm_weight_back(grad: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """[width] the gradient of the weight."""
    return (grad * (x * inverse).to(x.dtype)).sum(0)


def rotate_(x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Rotary positions, in place: Su et al. 2021. With the sine's sign changed it is undone.

    Args:
        x: [tokens, heads, width].
        cosine: [tokens, 1, width / 2].
        sine: the same.
    """
    one, other = x.chunk(2, -1)
    kept = one.clone()
    one.mul_(cosine).addcmul_(other, sine, value=-1)
    other.mul_(cosine).addcmul_(kept, sine)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate).mul_(up)


def gated_back(grad: Tensor, gate: Tensor, up: Tensor, silu: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up.

    Args:
        grad: [tokens, inner] of the result; it is overwritten.
        gate: [tokens, inner].
        up: [tokens, inner].
        silu: silu(gate); it is overwritten.
    """
    to_up = silu.mul_(grad)
    to_gate = torch.ops.aten.silu_backward.default(grad.mul_(up), gate)
    return to_gate, to_up
