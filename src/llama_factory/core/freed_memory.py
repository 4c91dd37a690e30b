"""Memory that was freed, back to the operating system."""

import ctypes
import sys
from functools import lru_cache
from typing import Any


def give_back() -> None:
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
