"""The memory that is left on a device, and what was freed of it."""

import ctypes
import sys
from functools import lru_cache
from typing import Any

import torch


def free_bytes(device: torch.device) -> int:
    """What a device still has for whoever asks first."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)


def give_back_freed() -> None:
    """GNU's C library keeps what threads freed for later, whole weights too; ask it not to.

    It takes milliseconds in which other threads may wait for memory. Elsewhere nothing happens.
    """
    if (library := _gnu_library()) is not None:
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _gnu_library() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
