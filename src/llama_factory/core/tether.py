"""Processes that end with the one that started them, even where that one is killed."""

import os
import sys
from collections.abc import Sequence

TETHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("whoever started it is gone")
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]}: {error.strerror}")
"""
"""Run by the child before it becomes the program: it gets SIGTERM when its parent's thread ends.
The 1 is PR_SET_PDEATHSIG."""


def tethered(command: Sequence[str]) -> list[str]:
    """The command as a child of this process runs it; only Linux can tie it.

    The kernel ties a child to the thread that started it, so that thread must last as long.
    """
    return [sys.executable, "-c", TETHER, str(os.getpid()), *command]
