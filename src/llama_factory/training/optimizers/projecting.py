"""Gradients in fewer dimensions: what GaLore and APOLLO share. Registers nothing itself."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Side = Literal["shorter", "longer", "left", "right", "both"]
"""Which dimension of a gradient is made smaller: that of its rows is the left one."""


def sides(gradient: "Tensor", side: Side) -> tuple[str, ...]:
    """`left`, `right` or both, for a gradient of this shape."""
    rows, columns = gradient.shape
    if side == "shorter":
        return ("left",) if rows < columns else ("right",)
    if side == "longer":
        return ("right",) if rows < columns else ("left",)
    return ("left", "right") if side == "both" else (side,)


def main_directions(gradient: "Tensor", rank: int, side: str) -> "Tensor":
    """[rows or columns, rank] orthonormal directions in which the gradient is largest.

    They are singular vectors, found as eigenvectors of the smaller product with itself.
    """
    import torch

    wide = gradient.float() if side == "left" else gradient.float().T
    _, vectors = torch.linalg.eigh(wide @ wide.T)
    return vectors[:, -rank:].flip(1).contiguous().to(gradient.dtype)


def random_directions(gradient: "Tensor", rank: int, side: str, seed: int) -> "Tensor":
    """[rows or columns, rank] normal numbers that keep lengths in the mean."""
    import torch

    size = gradient.shape[0 if side == "left" else 1]
    generator = torch.Generator(gradient.device).manual_seed(seed)
    shape = (size, rank)
    drawn = torch.randn(shape, generator=generator, device=gradient.device, dtype=torch.float32)
    return (drawn / rank**0.5).to(gradient.dtype)


def smaller(gradient: "Tensor", directions: "dict[str, Tensor]") -> "Tensor":
    """The gradient in the directions of each side."""
    if "left" in directions:
        gradient = directions["left"].T @ gradient
    return gradient @ directions["right"] if "right" in directions else gradient


def whole(step: "Tensor", directions: "dict[str, Tensor]") -> "Tensor":
    """A step in the directions of each side as one of the weight's shape."""
    if "left" in directions:
        step = directions["left"] @ step
    return step @ directions["right"].T if "right" in directions else step
