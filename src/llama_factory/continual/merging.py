"""Trained weights of two versions: copied, compared, and combined in place.

Layers with a trained product s B A are combined as updates of the base model; all other trained
weights element by element.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter

import torch
from torch import Tensor

from llama_factory.continual.low_rank import (
    Combined,
    LowRank,
    blend,
    factorize,
    low_rank_layers,
    magmax,
    other_names,
    ties,
)
from llama_factory.model.adapted import AdaptedModel

DIGEST = "digest"
"""Number in a strategy's memory that identifies the weights of the version."""


def snapshot(model: AdaptedModel) -> dict[str, Tensor]:
    """A copy of all trained weights, by name."""
    return {name: weight.detach().clone() for name, weight in model.trainable().items()}


@torch.no_grad()
def copy_into(model: AdaptedModel, weights: Mapping[str, Tensor]) -> None:
    """Give trained weights the values of a snapshot, bit for bit; what it lacks stays."""
    trained = model.trainable()
    for name in trained.keys() & weights.keys():
        trained[name].copy_(weights[name])


def digest(model: AdaptedModel) -> float:
    """Hash of the values of all the model's own weights, frozen ones too.

    A whole number of 52 bits, which a float holds exactly.
    """
    total = hashlib.blake2b(digest_size=8)
    for name, weight in sorted(_own(model), key=itemgetter(0)):
        total.update(name.encode())
        total.update(weight.float().cpu().contiguous().numpy().tobytes())
    return float(int.from_bytes(total.digest()) >> 12)


def is_unchanged(model: AdaptedModel, numbers: Mapping[str, float], strategy: str) -> bool:
    """Whether the model's weights are those of which a strategy remembers the digest.

    Versions of earlier releases remember the sum of their squares.
    """
    if f"{strategy}.{DIGEST}" in numbers:
        return digest(model) == numbers[f"{strategy}.{DIGEST}"]
    squares = float(sum(weight.double().square().sum() for _, weight in _own(model)))
    return math.isclose(squares, numbers.get(f"{strategy}.norm", 0.0), rel_tol=1e-6)


def _own(model: AdaptedModel) -> list[tuple[str, Tensor]]:
    named = model.network.named_parameters()
    return [(name, weight.detach()) for name, weight in named if name in model.own]


@dataclass(frozen=True)
class Rule:
    """How to combine a previous with a new state.

    Attributes:
        products: for layers with a trained product.
        others: for other weights, less what they were before the first round.
    """

    products: Callable[[LowRank, LowRank], Combined]
    others: Callable[[Tensor, Tensor], Tensor]


def blending(alpha: float) -> Rule:
    """(1 - alpha) of the previous and alpha of the new updates."""
    return Rule(lambda old, new: blend(old, new, alpha), lambda old, new: old.lerp(new, alpha))


def replacing_a(weight: float) -> Rule:
    """A new, and B moved from the previous towards the new one by `weight` of the way."""

    def products(old: LowRank, new: LowRank) -> Combined:
        return Combined(LowRank(old.b.lerp(new.b, weight), new.a, new.scale))

    return Rule(products, lambda old, new: old.lerp(new, weight))


def choosing_largest() -> Rule:
    """MagMax on full updates."""
    return _on_full_updates(magmax)


def electing_signs(density: float) -> Rule:
    """TIES on full updates."""
    return _on_full_updates(lambda old, new: ties(old, new, density))


def _on_full_updates(combine: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    def products(old: LowRank, new: LowRank) -> Combined:
        return factorize(combine(old.dense(), new.dense()), new.rank, new.scale)

    return Rule(products, combine)


@torch.no_grad()
def combine(
    model: AdaptedModel,
    previous: Mapping[str, Tensor],
    rule: Rule,
    origin: Mapping[str, Tensor] | None = None,
) -> float:
    """Combine a trained model with what it was before.

    Args:
        model: its trained weights are changed in place.
        previous: all of its trained weights as they were, by name.
        rule: how.
        origin: weights that are no part of a product as they were before the first round; what is
            not there counts as zero.

    Returns:
        What was lost by keeping the rank, as a fraction of the updates' norm.
    """
    layers, weights = low_rank_layers(model), model.trainable()
    old = {name: previous[name].to(weight.device) for name, weight in weights.items()}
    lost = total = 0.0
    for layer in layers.values():
        combined = rule.products(layer.of(old), layer.of(weights))
        weights[layer.b].copy_(combined.product.b)
        weights[layer.a].copy_(combined.product.a)
        lost, total = lost + combined.lost, total + combined.total
    for name in other_names(model, layers):
        start = (origin or {}).get(name, torch.zeros(())).to(old[name].device)
        weights[name].copy_(start + rule.others(old[name] - start, weights[name] - start))
    return math.sqrt(lost / total) if total else 0.0
