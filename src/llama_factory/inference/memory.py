"""How much may be held at once: keys and values, from what the machine has."""

import os
from typing import Any

import torch

from llama_factory.inference.batch_engine import Limits
from llama_factory.inference.settings import InferenceSettings
from llama_factory.model.free_memory import free_bytes
from llama_factory.model.layers import key_width

GB = 1_000_000_000
SHARE_OF_MEMORY, SHARE_OF_GPU = 0.2, 0.5


def limits_for(network: Any, dtype: torch.dtype, settings: InferenceSettings) -> Limits:
    """The limits of an engine.

    Args:
        network: that answers; it is on its device.
        dtype: of its keys and values.
        settings: what the user wants.
    """
    given = settings.cache_gb
    held = given * GB if given is not None else _free_bytes(network.device)
    return Limits(
        max_rows=settings.max_rows,
        chunk_tokens=settings.chunk_tokens,
        cache_tokens=max(1, int(held / bytes_per_token(network, dtype))),
        prefix_bytes=int(settings.prefix_gb * GB),
        max_drafts=settings.max_drafts,
    )


def bytes_per_token(network: Any, dtype: torch.dtype) -> int:
    """What keys and values of one token take in all layers; where there are none, a little."""
    config = network.config.get_text_config()
    if not getattr(config, "num_attention_heads", None):  # recurrent: its state does not grow
        return int(2 * config.hidden_size * dtype.itemsize)
    return int(config.num_hidden_layers * key_width(config) * dtype.itemsize)


def _free_bytes(device: torch.device) -> float:
    if device.type == "cuda":
        return free_bytes(device) * SHARE_OF_GPU
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * SHARE_OF_MEMORY
