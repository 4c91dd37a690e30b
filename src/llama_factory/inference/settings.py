"""Settings of the inference room: how a model answers, whoever asks."""

from typing import Literal

from llama_factory.core.settings import Settings

Weights = Literal["auto", "float32", "bfloat16"]


class InferenceSettings(Settings):
    """How models compute their answers."""

    weights: Weights = "auto"
    """Number format of the weights of linear layers while answering. `auto`: the format they were
    loaded in."""
