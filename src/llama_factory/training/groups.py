"""Which weights share a learning rate and a decay, and which of them are hidden matrices."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from llama_factory.core.errors import ConfigError
from llama_factory.model.adapted import AdaptedModel
from llama_factory.training.settings import TrainingSettings

LORA_B = "lora_B"


@dataclass(frozen=True)
class WeightGroup:
    """Weights that an optimizer treats alike.

    Attributes:
        weights: in the model's order.
        rate: peak learning rate.
        factor: on the course of the rate, over the usual weights'.
        decay: weight decay.
        is_matrix: [out, in] inside the network, neither an embedding nor the output head.
    """

    weights: list[nn.Parameter]
    rate: float
    factor: float
    decay: float
    is_matrix: bool

    def to_torch(self) -> dict[str, Any]:
        """As torch's optimizers take it."""
        return {
            "params": self.weights,
            "lr": self.rate * self.factor,
            "rate_factor": self.factor,
            "weight_decay": self.decay,
        }


def weight_groups(model: AdaptedModel, settings: TrainingSettings) -> list[WeightGroup]:
    """The trained weights by how they are treated.

    Only matrices decay: pulling norms and biases towards zero protects against nothing. With
    LoRA+ (Hayou et al. 2024, https://arxiv.org/abs/2402.12354) the B matrices of LoRA learn
    `loraplus_ratio` times faster, since they start at zero.

    Raises:
        ConfigError: LoRA+ is asked for and there is no LoRA.
    """
    tables = _tables(model.network)
    kinds: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    trained = model.trainable()
    ratio = _ratio(trained, settings)
    for name, weight in trained.items():
        factor = ratio if LORA_B in name else 1.0
        decay = settings.weight_decay if weight.ndim > 1 else 0.0
        is_matrix = weight.ndim == 2 and id(weight) not in tables
        kinds.setdefault((factor, decay, is_matrix), []).append(weight)
    return [
        WeightGroup(weights, settings.learning_rate, factor, decay, is_matrix)
        for (factor, decay, is_matrix), weights in kinds.items()
    ]


def _ratio(names: Iterable[str], settings: TrainingSettings) -> float:
    if settings.loraplus_ratio is None:
        return 1.0
    if not any(LORA_B in name for name in names):
        raise ConfigError(
            f"training.loraplus_ratio: {settings.loraplus_ratio} is a rate for LoRA's B matrices "
            "and this model trains none. Set model.adapter to lora, or remove the key."
        )
    return settings.loraplus_ratio


def _tables(network: Any) -> set[int]:
    """Embeddings and output head: matrices by shape, but tables with a row for each token."""
    inside = (m for m in network.modules() if isinstance(m, nn.Embedding))
    found = [*inside, network.get_output_embeddings()]
    return {id(weight) for module in found if module is not None for weight in module.parameters()}
