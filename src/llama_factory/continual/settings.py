"""Settings of a round: those of the layers below, the strategies and the gate."""

from typing import Annotated

from pydantic import Field

from llama_factory.continual.strategies.anchor import Anchor
from llama_factory.continual.strategies.replay import Replay
from llama_factory.core.settings import OneOf, Settings
from llama_factory.data.settings import DataSettings
from llama_factory.evaluation.settings import EvaluationSettings
from llama_factory.model.settings import ModelSettings
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import STRATEGIES, Strategy


class GateSettings(Settings):
    """When a new version is released."""

    metric: str = "token_f1"
    """The metric that decides, one of `evaluation.metrics`."""
    max_drop: float = Field(0.1, ge=0, le=1)
    """How far the metric may fall on any task. Lower refuses more; small test sets are noisy."""
    max_guard_ratio: float = Field(1.15, gt=0)
    """How far general perplexity may rise above the base model's, as a ratio. Lower keeps more of
    the general ability and refuses more."""


class RoundConfig(Settings):
    """Everything that a round of learning needs."""

    model: ModelSettings = ModelSettings()
    """The base model and its adapter."""
    data: DataSettings = DataSettings()
    """Which rows are taught and which are kept back to test."""
    training: TrainingSettings = TrainingSettings()
    """Length, speed and shape of training."""
    strategies: list[Annotated[Strategy, OneOf(STRATEGIES)]] = [Replay(), Anchor()]
    """How old knowledge is protected. An empty list protects nothing."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """What is measured after training."""
    gate: GateSettings = GateSettings()
    """When a new version is released."""
