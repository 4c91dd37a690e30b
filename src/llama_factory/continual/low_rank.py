"""Algebra of low-rank updates s B A: which layers of a model have one, and two of them as one.

(A, B) and (cA, B/c) are the same update: whatever compares or combines versions does so with the
products. A low-rank result is the nearest product of the same rank (Eckart and Young 1936): A gets
orthonormal rows, so that directions whose update is zero still train, as in a fresh adapter.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llama_factory.model.adapted import AdaptedModel

LORA_A = re.compile(
    r"(?P<layer>.+)\.lora_(?P<kind>|embedding_)A\.(?P<adapter>[^.]+)(?P<end>\.weight)?"
)
"""The name of a weight A."""
OVERSAMPLING = 32
SWEEPS = 6
"""Of the subspace iteration that finds the leading directions of a full matrix: with these the
error is within a percent of the least possible one."""


@dataclass(frozen=True)
class LowRank:
    """A layer's update as the product s B A.

    Attributes:
        b: [out, rank].
        a: [rank, in].
        scale: s.
    """

    b: Tensor
    a: Tensor
    scale: float

    @property
    def rank(self) -> int:
        """Width of the product."""
        return self.a.shape[0]

    def dense(self) -> Tensor:
        """[out, in] the update itself, float32."""
        return self.scale * (self.b.detach().float() @ self.a.detach().float())


@dataclass(frozen=True)
class LowRankLayer:
    """A layer of a model with a trained product.

    Attributes:
        b: name of the weight B.
        a: name of the weight A.
        scale: s.
        module: the layer that adds the product to its output.
    """

    b: str
    a: str
    scale: float
    module: nn.Module

    @property
    def is_plain(self) -> bool:
        """Whether the layer's weight is W + s B A of a linear layer, and nothing else."""
        has_dora = any(getattr(self.module, "use_dora", {}).values())
        return not has_dora and not isinstance(self.module.base_layer, nn.Embedding)

    @property
    def has_siblings(self) -> bool:
        """Whether further adapters add to the layer's output, such as the start of PiSSA."""
        adapters: Any = getattr(self.module, "active_adapters", ())
        return len(adapters) > 1

    def of(self, weights: Mapping[str, Tensor]) -> LowRank:
        """The product of these weights."""
        return LowRank(weights[self.b], weights[self.a], self.scale)


def low_rank_layers(model: AdaptedModel) -> dict[str, LowRankLayer]:
    """The layers of which both A and B train, by full name."""
    trained = model.trainable()
    layers: dict[str, LowRankLayer] = {}
    for name in trained:
        match = LORA_A.fullmatch(name)
        if match is None:
            continue
        layer, kind, adapter = match["layer"], match["kind"], match["adapter"]
        b = f"{layer}.lora_{kind}B.{adapter}{match['end'] or ''}"
        if b in trained:
            module: Any = model.network.get_submodule(layer)
            layers[layer] = LowRankLayer(b, name, float(module.scaling[adapter]), module)
    return layers


def other_names(model: AdaptedModel, layers: Mapping[str, LowRankLayer]) -> list[str]:
    """Trained weights that are no part of a product: norms, biases, embeddings, whole models."""
    paired = {name for each in layers.values() for name in (each.a, each.b)}
    return [name for name in model.trainable() if name not in paired]


@dataclass(frozen=True)
class Combined:
    """A product, and what was lost by giving it its rank.

    Attributes:
        product: of the rank asked for.
        lost: squared Frobenius norm of the difference to the exact result.
        total: squared Frobenius norm of the exact result.
    """

    product: LowRank
    lost: float = 0.0
    total: float = 0.0


def blend(previous: LowRank, new: LowRank, alpha: float) -> Combined:
    """(1 - alpha) of the previous update plus alpha of the new one.

    Exact where both share A or B, or where the previous update is zero; else the exact result has
    up to twice the rank and the nearest product is returned. That is never further away than
    blending A and B one by one, which is off by alpha (1 - alpha) (B - B*) (A - A*).
    """
    if torch.equal(previous.a, new.a):
        return Combined(LowRank(torch.lerp(previous.b, new.b, alpha), new.a, new.scale))
    if not previous.b.any():
        return Combined(LowRank(alpha * new.b, new.a, new.scale))
    if torch.equal(previous.b, new.b):
        return Combined(LowRank(new.b, torch.lerp(previous.a, new.a, alpha), new.scale))
    b = torch.cat([(1 - alpha) * previous.b.double(), alpha * new.b.double()], dim=1)
    a = torch.cat([previous.a.double(), new.a.double()])
    return truncate(LowRank(b, a, new.scale), new.rank)


def truncate(product: LowRank, rank: int) -> Combined:
    """The nearest product of a lower rank: its truncated SVD, without the full matrix."""
    left, upper = torch.linalg.qr(product.b.double())  # [out, wide], [wide, wide]
    right, lower = torch.linalg.qr(product.a.double().mT)
    u, s, v = torch.linalg.svd(upper @ lower.mT)
    b = (left @ u[:, :rank]) * s[:rank]
    a = v[:rank] @ right.mT
    squares = (product.scale * s).square()
    kept = LowRank(b.float(), a.float().contiguous(), product.scale)
    return Combined(kept, float(squares[rank:].sum()), float(squares.sum()))


def factorize(update: Tensor, rank: int, scale: float) -> Combined:
    """The product of this rank and scale that is nearest to a full update.

    Args:
        update: [out, in] float32.
        rank: of the product.
        scale: s of the product.
    """
    width = min(2 * rank + OVERSAMPLING, *update.shape)
    devices = [update.device] if update.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        directions = torch.svd_lowrank(update, q=width, niter=SWEEPS)[2]  # [in, width]
    a = directions[:, :rank].mT.contiguous()
    b = update @ a.mT / scale  # the best B for these directions
    lost = (update - scale * b @ a).double().square().sum()
    return Combined(LowRank(b, a, scale), float(lost), float(update.double().square().sum()))


def magmax(previous: Tensor, new: Tensor) -> Tensor:
    """Of each element the larger one in magnitude; the new one where they are equal.

    Marczak et al. 2024, equation 2, https://arxiv.org/abs/2407.06322
    """
    return torch.where(new.abs() >= previous.abs(), new, previous)


def ties(previous: Tensor, new: Tensor, density: float) -> Tensor:
    """Trim, elect a sign, average what agrees with it.

    Yadav et al. 2023, algorithm 1, https://arxiv.org/abs/2306.01708, with their scale lambda = 1;
    we trim layer by layer and not over the whole model at once, which would have to hold it.

    Args:
        previous: one update.
        new: the other one.
        density: fraction of elements that survive trimming.
    """
    both = torch.stack([trim(previous, density), trim(new, density)])
    sign = both.sum(0).sign()
    agrees = (both.sign() == sign) & (both != 0)
    return (both * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def trim(update: Tensor, density: float) -> Tensor:
    """The largest elements in magnitude, zeros for the rest."""
    num_kept = max(1, round(density * update.numel()))
    magnitudes = update.abs().flatten()
    least = magnitudes.kthvalue(update.numel() - num_kept + 1).values
    return torch.where(update.abs() >= least, update, 0)


def orthonormal(a: Tensor) -> Tensor:
    """Orthonormal rows that span what the rows of A span, [rank, in]."""
    q, r = torch.linalg.qr(a.float().mT)
    sign = torch.where(r.diagonal() < 0, -1.0, 1.0)  # makes the decomposition unique
    return (q * sign).mT.to(a.dtype).contiguous()


def overlap(own: Tensor, earlier: Tensor) -> Tensor:
    """Sum of |a_i . a_j| over all pairs of rows; 0 where they are orthogonal.

    Args:
        own: [rank, in].
        earlier: [earlier ranks, in].
    """
    return (own @ earlier.T).abs().sum()


@torch.no_grad()
def project_out(own: Tensor, earlier: Tensor) -> None:
    """Make rows orthogonal to earlier ones, in place; their lengths stay.

    Args:
        own: [rank, in].
        earlier: [earlier ranks, in].
    """
    basis, _ = torch.linalg.qr(earlier.T.float())  # [in, earlier ranks]
    rest = own - (own @ basis) @ basis.T
    own.copy_(rest * (own.norm(dim=1) / rest.norm(dim=1))[:, None])
