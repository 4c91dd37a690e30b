"""The keys that change no setting here, from other_keys.yaml: each with what is said of it."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from llama_factory.config.dialects.values import Key, anything, ignored, missing, noted

FILE = Path(__file__).parent / "other_keys.yaml"


@lru_cache(maxsize=1)
def _table() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def needing_nothing() -> dict[str, Key]:
    """Keys that are right in any case."""
    return {
        name: ignored(group["because"], anything, None)
        for group in _table()["needs nothing"]
        for name in group["keys"]
    }


def working_differently() -> dict[str, Key]:
    """Keys that are accepted with a note where they are not at their default."""
    return {
        name: noted(group["note"], default)
        for group in _table()["works differently"]
        for name, default in group["keys"].items()
    }


def refused() -> dict[str, Key]:
    """Keys that are accepted at their default only."""
    return {
        name: missing(group["instead"], default)
        for group in _table()["is refused"]
        for name, default in group["keys"].items()
    }
