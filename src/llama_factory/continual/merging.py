"""The trained weights of two versions combined into one, in place.

Layers with a trained product s B A are combined as updates of the base model; all other trained
weights element by element.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_factory.continual.combining import Combined, blend, factored, magmax, ties
from llama_factory.continual.updates import LowRank, low_rank_layers, other_names
from llama_factory.model.load import AdaptedModel


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
        return factored(combine(old.dense(), new.dense()), new.rank, new.scale)

    return Rule(products, combine)


def interpolate(model: AdaptedModel, previous: Mapping[str, Tensor], alpha: float) -> float:
    """Move a trained model back towards what it was: (1 - alpha) previous + alpha trained updates.

    Args:
        model: its trained weights are changed in place; with alpha 1 not a bit of them.
        previous: all of its trained weights as they were, by name.
        alpha: 0 gives the previous updates, 1 the trained ones.

    Returns:
        What was lost by keeping the rank, as a share of the updates' norm.
    """
    return 0.0 if alpha == 1 else combine(model, previous, blending(alpha))


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
        What was lost by keeping the rank, as a share of the updates' norm.
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
