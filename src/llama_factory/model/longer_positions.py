"""Positions beyond those that a model was trained with: its rotary frequencies are changed."""

import math
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from llama_factory.core.errors import ModelError
from llama_factory.model.settings import ModelSettings

USUAL_FACTOR = 2.0
"""Where nobody says how many tokens are to be read."""
LLAMA3_SPAN = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
"""Waves between these shares of the model's own length are changed in part."""


def config_for(folder: Path, settings: ModelSettings) -> dict[str, Any]:
    """Options for loading a network, whose config has other positions where that is asked for.

    Raises:
        ModelError: the folder has no config, or its positions cannot be stretched.
    """
    if settings.rope_scaling is None:
        return {}
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=settings.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: this model's config cannot be read: {error}") from error
    return {"config": stretched(config, settings.rope_scaling, settings.rope_tokens)}


def stretched(config: Any, kind: str, tokens: int | None) -> Any:
    """A config whose positions reach further; the same where they reach far enough.

    Linear: Chen et al. 2023, https://arxiv.org/abs/2306.15595; dynamic: bloc97 2023; yarn: Peng et
    al. 2023, https://arxiv.org/abs/2309.00071; llama3: Dubey et al. 2024, section 3.4.

    Args:
        config: of Transformers; it is changed.
        kind: `linear`, `dynamic`, `yarn` or `llama3`.
        tokens: that are to be read; None for twice the model's own length.

    Raises:
        ModelError: it has no rotary positions, or they are stretched already.
    """
    text = config.get_text_config()
    own, rope = getattr(text, "max_position_embeddings", None), _rope(text)
    if own is None or rope is None:
        raise ModelError(
            f"model.rope_scaling: '{config.model_type}' has no rotary positions of one kind that "
            "could be stretched. Leave it out."
        )
    if tokens is not None and tokens <= own:
        return config
    if rope["rope_type"] != "default":
        raise ModelError(
            f"model.rope_scaling: this model's positions are of the kind '{rope['rope_type']}' "
            f"already and reach {own} tokens. Leave it out, and keep rows within that."
        )
    factor = USUAL_FACTOR if tokens is None else float(math.ceil(tokens / own))
    own_length = {} if kind == "linear" else {"original_max_position_embeddings": own}
    span = LLAMA3_SPAN if kind == "llama3" else {}
    text.rope_parameters = {**rope, "rope_type": kind, "factor": factor, **own_length, **span}
    text.max_position_embeddings = int(own * factor)
    return config


def _rope(text: Any) -> dict[str, Any] | None:
    """The rotary positions of a text model that has one kind in all layers."""
    found = getattr(text, "rope_parameters", None)
    return found if isinstance(found, dict) and "rope_type" in found else None
