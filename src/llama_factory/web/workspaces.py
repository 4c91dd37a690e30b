"""The workspaces below a folder, under names that are no paths."""

import os
from collections.abc import Iterator
from pathlib import Path

from llama_factory.versions.workspace import SETTINGS_FILE

DEEPEST = 4
MOST = 500
SEPARATOR = "~"
"""Stands for `/` in a name, so that a name is one part of an address."""


def find_workspaces(folder: Path) -> dict[str, Path]:
    """Workspaces at most `DEEPEST` folders down, by name; what lies in one is not looked at."""
    found = {}
    for path in _walk(folder, DEEPEST):
        name = path.relative_to(folder).as_posix().replace("/", SEPARATOR)
        found[name] = path
        if len(found) == MOST:
            break
    return found


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda each: each.name)
    except OSError:
        return
    for entry in entries:
        # Links are not followed: what lies elsewhere is not below this folder.
        if entry.name.startswith(".") or not entry.is_dir(follow_symlinks=False):
            continue
        path = Path(entry.path)
        if (path / SETTINGS_FILE).is_file() and (path / "versions").is_dir():
            yield path
        elif depth > 1:
            yield from _walk(path, depth - 1)
