"""How large a model is, by layer and besides: numbers that follow from its config alone.

Layers are alike, so a model with one layer and one with two tell all others. Both are built of
fake tensors (`outline.py`), which take no memory and no time worth naming at any width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from llama_factory.core.errors import ModelError
from llama_factory.model.outline import Outline, outline_of
from llama_factory.model.settings import ModelSettings

FEW, MANY = 16, 48
"""Tokens of two passes: what they keep besides tokens is the same in both."""


@dataclass(frozen=True)
class Amount:
    """Something that a model has in every layer, and outside of its layers.

    Attributes:
        outside: of embeddings, norms, head.
        layer: of one layer.
    """

    outside: float
    layer: float

    def of(self, num_layers: int) -> float:
        """Of a model with so many layers."""
        return self.outside + num_layers * self.layer

    def plus(self, factor: float, other: "Amount") -> "Amount":
        """The sum with so many times another one."""
        return Amount(self.outside + factor * other.outside, self.layer + factor * other.layer)

    def times(self, factor: float) -> "Amount":
        """So many times as much."""
        return Amount(factor * self.outside, factor * self.layer)


@dataclass(frozen=True)
class ModelShape:
    """A model with its adapter, in numbers.

    Attributes:
        num_layers: of the whole model.
        width: of the stream between layers.
        vocabulary: rows of the output head.
        weights: all weights, counted.
        trained: those that train.
        multiplied: weights of products, which take the time of a token.
        weight_bytes: of all weights, as loaded.
        trained_bytes: of those that train.
        kept_bytes: what a token keeps for the backward pass.
        copied_bytes: what a pass keeps whatever the tokens: weights in another number format.
        unpacked_bytes: of the largest packed matrix, in the number format of products.
        input_bytes: of what goes into a layer, for a token.
        key_bytes: of a token's keys and values in one layer.
        quick_kept_bytes: what a token keeps with quick layers; None where there are none for it.
    """

    num_layers: int
    width: int
    vocabulary: int
    weights: Amount
    trained: Amount
    multiplied: Amount
    weight_bytes: Amount
    trained_bytes: Amount
    kept_bytes: Amount
    copied_bytes: Amount
    unpacked_bytes: int
    input_bytes: int
    key_bytes: int
    quick_kept_bytes: Amount | None = None

    @property
    def num_weights(self) -> int:
        """All weights of the model."""
        return round(self.weights.of(self.num_layers))

    @property
    def num_trained(self) -> int:
        """Weights that train."""
        return round(self.trained.of(self.num_layers))


def shape_of(config: Any, settings: ModelSettings) -> ModelShape:
    """The numbers of a model as it would train.

    Args:
        config: of Transformers; it is not changed.
        settings: which adapter, which number format.

    Raises:
        ModelError: no model can be made of this config, or it cannot carry the adapter.
    """
    num_layers = int(config.get_text_config().num_hidden_layers)
    is_alike = settings.adapter.treats_layers_alike and not settings.freeze_layers
    if is_alike and _has_like_layers(config) and num_layers > 2:
        one, two = (outline_of(_cut(config, n), settings) for n in (1, 2))
        return _shape(two, num_layers, lambda number: _drawn(number(one), number(two)))
    whole = outline_of(config, settings)
    return _shape(whole, num_layers, lambda number: Amount(0.0, number(whole) / num_layers))


Measured = Callable[[Outline], float]


def _shape(about: Outline, num_layers: int, amount: Callable[[Measured], Amount]) -> ModelShape:
    few, many = (amount(partial(Outline.bytes_kept, num_tokens=n)) for n in (FEW, MANY))
    kept = many.plus(-1, few).times(1 / (MANY - FEW))
    copied = few.plus(-FEW, kept)
    return ModelShape(
        num_layers=num_layers,
        width=about.width,
        vocabulary=about.vocabulary,
        weights=amount(lambda each: each.num_weights),
        trained=amount(lambda each: each.num_trained),
        multiplied=amount(lambda each: each.num_multiplied),
        weight_bytes=amount(lambda each: each.weight_bytes),
        trained_bytes=amount(lambda each: each.trained_bytes),
        kept_bytes=kept,
        copied_bytes=copied,
        unpacked_bytes=about.unpacked_bytes,
        input_bytes=about.width * about.precision.dtype.itemsize,
        key_bytes=about.key_width * about.precision.dtype.itemsize,
        quick_kept_bytes=amount(Outline.quick_bytes_kept) if about.may_be_quick else None,
    )


def _drawn(one: float, two: float) -> Amount:
    """The line through a model with one layer and a model with two."""
    return Amount(2 * one - two, two - one)


def _cut(config: Any, num_layers: int) -> Any:
    """A config of the same model with fewer layers."""
    values, text = config.to_dict(), config.get_text_config()
    inner = values.get("text_config", values) if text is not config else values
    inner["num_hidden_layers"] = num_layers
    for name, value in inner.items():
        if isinstance(value, list) and len(value) == text.num_hidden_layers:
            inner[name] = value[:num_layers]
    return type(config).from_dict(values)


def _has_like_layers(config: Any) -> bool:
    """Whether every layer has the weights of every other one."""
    values = config.get_text_config().to_dict()
    if values.get("first_k_dense_replace") or values.get("mlp_only_layers"):
        return False
    steps = (values.get(name) or 1 for name in ("decoder_sparse_step", "moe_layer_freq"))
    return all(step == 1 for step in steps)


def require_size(config: Any, name: str) -> None:
    """Refuse what has no layers to count.

    Raises:
        ModelError: the config does not say how many there are.
    """
    if not getattr(config.get_text_config(), "num_hidden_layers", 0):
        raise ModelError(
            f"model.base_model: the config of {name} does not say how many layers it has "
            "(num_hidden_layers), so nothing can be worked out."
        )
