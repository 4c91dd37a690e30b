"""How much each trained weight matters to what was learned: the diagonal of the Fisher information.

F = E_x E_y [(d log p(y | x) / dw)^2], Kirkpatrick et al. 2017, https://arxiv.org/abs/1612.00796.
One example at a time (the square of an average gradient is not the average square), without
dropout, of the summed log-probability of the answer, squares added up in float32.

With y drawn from the model (`sampled`) this is the Fisher information; with the answers of the
data it is the empirical Fisher, which vanishes where the model fits them. Answers are drawn token
by token after the row's own earlier tokens: given the text, each token's score has mean zero, so
this is the Fisher information of the predictions that training makes, without generating.

Of adapted layers the weights are those of the update W = BA, and F_ij ~ r_i c_j is the diagonal of
K-FAC (Martens and Grosse 2015, equation 16, https://arxiv.org/abs/1503.05671): r_i is the mean over
rows of the squared gradient by output i, added up over tokens, c_j the mean square of input j.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llama_factory.continual.low_rank import LowRankLayer, other_names
from llama_factory.continual.strategy_rows import padded, without_dropout
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.encoding import EncodedRow
from llama_factory.model.layers import causal_of
from llama_factory.model.output_head import TokenLogProbs
from llama_factory.model.padding import IGNORED

SAMPLED, EMPIRICAL = "sampled", "empirical"
PARTS = ("weights", "outputs", "inputs")


@dataclass(frozen=True)
class Fisher:
    """Importance of trained weights, float32, in main memory.

    Attributes:
        weights: of each weight, by name.
        outputs: r of each layer whose update is a product, [out], by layer.
        inputs: c of the same layers, [in].
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured."""
        return not self.weights and not self.outputs

    def mean(self) -> float:
        """Over all weights, those of full updates among them."""
        total = sum(float(each.double().sum()) for each in self.weights.values())
        count = sum(each.numel() for each in self.weights.values())
        for layer, r in self.outputs.items():
            c = self.inputs[layer]
            total += float(r.double().sum() * c.double().sum())
            count += r.numel() * c.numel()
        return total / count if count else 0.0

    def normalised(self) -> "Fisher":
        """The same with mean 1, so that a penalty's strength does not depend on the model."""
        mean = self.mean()
        if mean == 0:
            return self
        # inputs keep their size: the product of r and c carries the scale once
        weights = {name: each / mean for name, each in self.weights.items()}
        return Fisher(weights, {k: r / mean for k, r in self.outputs.items()}, self.inputs)

    def mixed(self, other: "Fisher", alpha: float) -> "Fisher":
        """(1 - alpha) of this plus alpha of the other; what only one of them has is kept."""
        return Fisher(
            _mixed(self.weights, other.weights, alpha),
            _mixed(self.outputs, other.outputs, alpha),
            _mixed(self.inputs, other.inputs, alpha),
        )

    def fitting(self, shapes: Mapping[str, Sequence[int]]) -> "Fisher":
        """All but what has another shape now; what does not train now is kept for later.

        Args:
            shapes: of weights and of full updates, [out, in], by name.
        """
        now = {name: tuple(shape) for name, shape in shapes.items()}
        full = {k: (len(r), len(self.inputs[k])) for k, r in self.outputs.items()}
        sizes = full | {k: tuple(f.shape) for k, f in self.weights.items()}
        fits = {k for k, size in sizes.items() if now.get(k, size) == size}
        return Fisher(
            {k: f for k, f in self.weights.items() if k in fits},
            {k: r for k, r in self.outputs.items() if k in fits},
            {k: c for k, c in self.inputs.items() if k in fits},
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """As a memory keeps it."""
        return {
            f"{part}.{name}": tensor.contiguous()
            for part in PARTS
            for name, tensor in getattr(self, part).items()
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> "Fisher":
        """The inverse of `to_tensors`; tensors of other names are passed over."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        for key, tensor in tensors.items():
            part, _, name = key.partition(".")
            if part in parts:
                parts[part][name] = tensor
        return Fisher(**parts)


def _mixed(old: Mapping[str, Tensor], new: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    both = {name: (1 - alpha) * old[name] + alpha * new[name] for name in old if name in new}
    return {**old, **new, **both}


def diagonal(scores: Iterable[Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean over examples of the squared gradient of each example's score.

    Args:
        scores: one scalar an example; an iterator, as each keeps its graph until it is used.
        weights: by name.
    """
    sums = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
    count = 0
    for score in scores:
        count += 1
        # an expert that no token was sent to has gradient zero
        gradients = torch.autograd.grad(
            score, list(weights.values()), allow_unused=True, materialize_grads=True
        )
        for total, gradient in zip(sums.values(), gradients, strict=True):
            total.addcmul_(gradient.float(), gradient.float())
    return {name: total / max(count, 1) for name, total in sums.items()}


def measure(
    model: AdaptedModel,
    rows: Sequence[EncodedRow],
    layers: Mapping[str, LowRankLayer],
    *,
    kind: str,
    seed: int,
) -> Fisher:
    """The Fisher information of a model's trained weights on rows.

    Args:
        model: as trained.
        rows: at least one.
        layers: whose update is measured as a whole, by name; all other trained weights are
            measured element by element.
        kind: SAMPLED or EMPIRICAL.
        seed: of sampled answers.
    """
    kernel = TokenLogProbs(model.network)
    generator = torch.Generator(model.device).manual_seed(seed)

    def scores() -> Iterator[Tensor]:
        for row in rows:
            ids, targets = padded(model, [row])
            if kind == SAMPLED:
                yield draw(model.network, ids, targets, generator)[1].sum()
            else:
                yield kernel(ids, targets).sum()

    weights, others = model.trainable(), other_names(model, layers)
    # the gradient of B reaches a layer's outputs, where it is recorded on the way
    wanted = {name: weights[name] for name in [*others, *(each.b for each in layers.values())]}
    with without_dropout(model.network), _tapped(layers) as taps:
        squares = diagonal(scores(), wanted)
    used = {name: tap for name, tap in taps.items() if tap.num_tokens}
    return Fisher(
        {name: squares[name].cpu() for name in others},
        {name: (tap.output_squares / len(rows)).cpu() for name, tap in used.items()},
        {name: (tap.input_squares / tap.num_tokens).cpu() for name, tap in used.items()},
    )


def draw(
    network: Any, ids: Tensor, targets: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Answers drawn token by token from the model's own predictions.

    Args:
        network: a causal language model.
        ids: [1, seq] token ids.
        targets: [1, seq], IGNORED where nothing is predicted.
        generator: on the device of `ids`.

    Returns:
        [trained tokens] the drawn token ids, and their log-probabilities in nats, float32.
    """
    places = (targets[0] != IGNORED).nonzero().squeeze(1)
    log_probs = _logits(network, ids, places).float().log_softmax(-1)
    drawn = torch.multinomial(log_probs.detach().exp(), 1, generator=generator)
    return drawn.squeeze(1), log_probs.gather(1, drawn).squeeze(1)


def _logits(network: Any, ids: Tensor, places: Tensor) -> Tensor:
    """[places, vocabulary], without those of other positions where the model can leave them out."""
    causal = causal_of(network)
    if "logits_to_keep" in inspect.signature(causal.forward).parameters:
        kept: Tensor = network(input_ids=ids, use_cache=False, logits_to_keep=places).logits
        return kept[0]
    logits: Tensor = network(input_ids=ids, use_cache=False).logits
    return logits[0, places]


@dataclass
class _Tap:
    """Sums over tokens of squared inputs of a layer, and of squared gradients by its outputs."""

    input_squares: Any = 0.0
    output_squares: Any = 0.0
    num_tokens: int = 0

    def record(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Forward hook."""
        flat = inputs[0].detach().flatten(0, -2).float()  # [tokens, in]
        self.input_squares = self.input_squares + flat.square().sum(0)
        self.num_tokens += len(flat)
        output.register_hook(self._record_gradient)  # type: ignore[no-untyped-call]

    def _record_gradient(self, gradient: Tensor) -> None:
        flat = gradient.detach().flatten(0, -2).float()  # [tokens, out]
        self.output_squares = self.output_squares + flat.square().sum(0)


@contextmanager
def _tapped(layers: Mapping[str, LowRankLayer]) -> Iterator[dict[str, _Tap]]:
    taps = {name: _Tap() for name in layers}
    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.module.register_forward_hook(taps[name].record))
        yield taps
