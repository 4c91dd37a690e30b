"""What was trained, as updates of the base model: the product s B A of every adapted layer, and
all other trained weights as they are.

(A, B) and (cA, B/c) are the same model: whatever compares or combines versions must do so with the
products.
"""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from llama_factory.model.load import AdaptedModel

INNER = re.compile(
    r"(?P<layer>.+)\.lora_(?P<kind>|embedding_)A\.(?P<adapter>[^.]+)(?P<end>\.weight)?"
)


DIGEST = ".digest"
"""After a strategy's name: the number in its memory that tells weights from others."""


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
class LayerNames:
    """Where the trained product of one layer is.

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
        """The product with these weights."""
        return LowRank(weights[self.b], weights[self.a], self.scale)


def low_rank_layers(model: AdaptedModel) -> dict[str, LayerNames]:
    """The layers of which both A and B train, by full name."""
    trained = model.trainable()
    found: dict[str, LayerNames] = {}
    for name in trained:
        match = INNER.fullmatch(name)
        if match is None:
            continue
        layer, kind, adapter = match["layer"], match["kind"], match["adapter"]
        other = f"{layer}.lora_{kind}B.{adapter}{match['end'] or ''}"
        if other in trained:
            module: Any = model.network.get_submodule(layer)
            found[layer] = LayerNames(other, name, float(module.scaling[adapter]), module)
    return found


def other_names(model: AdaptedModel, layers: Mapping[str, LayerNames]) -> list[str]:
    """Trained weights that are no part of a product: norms, biases, embeddings, whole models."""
    paired = {name for each in layers.values() for name in (each.a, each.b)}
    return [name for name in model.trainable() if name not in paired]


def snapshot(model: AdaptedModel) -> dict[str, Tensor]:
    """A copy of all trained weights, by name."""
    return {name: weight.detach().clone() for name, weight in model.trainable().items()}


@torch.no_grad()
def put_back(model: AdaptedModel, weights: Mapping[str, Tensor]) -> None:
    """Give weights the values of a snapshot, bit for bit; those that do not train now stay."""
    trained = model.trainable()
    for name in trained.keys() & weights.keys():
        trained[name].copy_(weights[name])


def digest(model: AdaptedModel) -> float:
    """Names the values of all the model's own weights, frozen ones too: a hash of their bytes.

    A whole number of 52 bits, which a float holds exactly.
    """
    found = hashlib.blake2b(digest_size=8)
    for name, weight in sorted(_own(model), key=itemgetter(0)):
        found.update(name.encode())
        found.update(weight.float().cpu().contiguous().numpy().tobytes())
    return float(int.from_bytes(found.digest()) >> 12)


def is_unchanged(model: AdaptedModel, numbers: Mapping[str, float], strategy: str) -> bool:
    """Whether the model's weights are those of which a strategy remembers the digest.

    Versions of earlier releases remember the sum of their squares.
    """
    if strategy + DIGEST in numbers:
        return digest(model) == numbers[strategy + DIGEST]
    squares = float(sum(weight.double().square().sum() for _, weight in _own(model)))
    return math.isclose(squares, numbers.get(f"{strategy}.norm", 0.0), rel_tol=1e-6)


def _own(model: AdaptedModel) -> list[tuple[str, Tensor]]:
    named = model.network.named_parameters()
    return [(name, weight.detach()) for name, weight in named if name in model.own]
