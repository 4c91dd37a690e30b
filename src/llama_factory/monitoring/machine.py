"""The machine that a workspace lies on."""

import shutil

from llama_factory.core import files
from llama_factory.monitoring import sentences
from llama_factory.monitoring.series import Point
from llama_factory.versions.workspace import Workspace

DISK = "machine.disk"
ROUNDS_OF_SPACE = 3
"""Alert where there is room for fewer rounds like the largest version."""
FEWEST_BYTES = 1 << 30


def disk(workspace: Workspace, at: str) -> Point:
    """The fraction of the disk that is in use; an alert where hardly any round has room."""
    usage = shutil.disk_usage(workspace.folder)
    largest = max((files.num_bytes(path) for path in workspace.versions.glob("v*")), default=0)
    wanted = max(FEWEST_BYTES, ROUNDS_OF_SPACE * largest)
    is_alert = usage.free < wanted
    words = (sentences.LITTLE_SPACE if is_alert else sentences.ENOUGH_SPACE)(
        free=f"{usage.free / 1e9:.1f}",
        total=f"{usage.total / 1e9:.1f}",
        wanted=f"{wanted / 1e9:.1f}",
    )
    used = 1 - usage.free / usage.total if usage.total else 1.0
    return Point(at, DISK, round(used, 3), is_alert, words)
