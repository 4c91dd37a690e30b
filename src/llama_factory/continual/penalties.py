"""Quadratic penalties on how far trained weights, or whole updates, are from where they were.

The penalty on an update never forms the full matrix. With importance r_i c_j, and the change
D = s (BA - B*A*) = s ((B - B*) A + B* (A - A*)) written as one product U V of twice the rank,
U = [B - B*, B*] and V = [A; A - A*],

    sum_ij r_i c_j D_ij^2 = s^2 trace[(U' diag(r) U) (V diag(c) V')].

The shorter [B, -B*] [A; A*] is the same D, but its terms are large and cancel: in float32 a small
change would drown in rounding.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_factory.continual.fisher import Fisher
from llama_factory.continual.low_rank import LowRankLayer


@dataclass(frozen=True, eq=False)
class WeightPenalty:
    """Sum over weights of F (w - w*)^2.

    Attributes:
        names: of the weights.
        fisher: [all weights] F.
        old: [all weights] w*.
    """

    names: tuple[str, ...]
    fisher: Tensor
    old: Tensor

    @staticmethod
    def at(fisher: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> "WeightPenalty":
        """On the distance from where weights are now."""
        names = tuple(name for name in weights if name in fisher)
        importance = [fisher[name].to(weights[name].device) for name in names]
        now = [weights[name].detach() for name in names]
        return WeightPenalty(names, _flat(importance), _flat(now))

    def value(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The sum, a scalar with a gradient."""
        now = _flat([weights[name] for name in self.names])
        return (self.fisher * (now - self.old).square()).sum()


@dataclass(frozen=True, eq=False)
class UpdatePenalty:
    """Sum over the updates of layers of one shape of r_i c_j (D_ij)^2.

    Layers of one shape are computed together: a model has hundreds of layers and few shapes, and
    on a GPU each launch costs more than these small products.

    Attributes:
        layers: where the products are.
        outputs: [layers, out, 1] r, times the square of the scale.
        inputs: [layers, in, 1] c.
        b: [layers, out, rank] B*.
        a: [layers, rank, in] A*.
    """

    layers: tuple[LowRankLayer, ...]
    outputs: Tensor
    inputs: Tensor
    b: Tensor
    a: Tensor

    @staticmethod
    def at(
        fisher: Fisher, layers: Mapping[str, LowRankLayer], weights: Mapping[str, Tensor]
    ) -> "UpdatePenalty":
        """On the distance from where the updates of layers are now."""
        products = [layer.of(weights) for layer in layers.values()]
        b = torch.stack([product.b.detach().float() for product in products])
        a = torch.stack([product.a.detach().float() for product in products])
        squares = [layer.scale**2 for layer in layers.values()]
        r = torch.stack([fisher.outputs[n] * s for n, s in zip(layers, squares, strict=True)])
        c = torch.stack([fisher.inputs[name] for name in layers])
        outputs, inputs = r.to(b.device)[:, :, None], c.to(b.device)[:, :, None]
        return UpdatePenalty(tuple(layers.values()), outputs, inputs, b, a)

    def value(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The sum, a scalar with a gradient."""
        b = torch.stack([weights[each.b].float() for each in self.layers])
        a = torch.stack([weights[each.a].float() for each in self.layers])
        left = torch.cat([b - self.b, self.b], dim=2)  # [layers, out, 2 rank]
        right = torch.cat([a, a - self.a], dim=1).mT  # [layers, in, 2 rank]
        by_output = left.mT @ (self.outputs * left)  # [layers, 2 rank, 2 rank]
        by_input = right.mT @ (self.inputs * right)
        return (by_output * by_input).sum()


def penalties(
    fisher: Fisher, layers: Mapping[str, LowRankLayer], weights: Mapping[str, Tensor]
) -> tuple[WeightPenalty | UpdatePenalty, ...]:
    """Penalties on everything that has an importance, at its present place.

    Args:
        fisher: importance; it may be empty.
        layers: whose updates are held as a whole.
        weights: all trained weights.
    """
    by_shape: dict[tuple[int, ...], dict[str, LowRankLayer]] = defaultdict(dict)
    for name, layer in layers.items():
        if name in fisher.outputs:
            by_shape[(*weights[layer.b].shape, *weights[layer.a].shape)][name] = layer
    updates = tuple(UpdatePenalty.at(fisher, each, weights) for each in by_shape.values())
    single = WeightPenalty.at(fisher.weights, weights)
    return (*updates, single) if single.names else updates


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.flatten().float() for each in tensors]) if tensors else torch.zeros(0)
