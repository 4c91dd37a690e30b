"""Activations computed a second time in the backward pass instead of kept: less memory, slower.

Chen et al. 2016, https://arxiv.org/abs/1604.06174
"""

from typing import Any

from llama_factory.core.errors import ModelError
from llama_factory.model.layers import causal_of


def recompute(network: Any) -> None:
    """Let each decoder layer keep only its input; the gradients are the same.

    Without re-entry, so that it also works where nothing below a layer trains.

    Args:
        network: a Transformers model, with or without an adapter.

    Raises:
        ModelError: the model's own code cannot do it.
    """
    causal = causal_of(network)
    try:
        causal.activation_checkpointing_enable({"use_reentrant": False})
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"training.gradient_checkpointing: {type(causal).__name__} cannot compute its layers "
            f"again ({error}). Set it to false and lower training.micro_batch_tokens instead."
        ) from error


def is_recomputed(network: Any) -> bool:
    """Whether layers keep only their input."""
    causal = causal_of(network)
    return bool(causal.is_activation_checkpointing)
