"""Commands of this program that run as processes of their own."""

import sys
from collections.abc import Iterable


def own_command(words: Iterable[str]) -> list[str]:
    """The command line that runs `llama-factory` with these words, whatever the PATH holds."""
    return [sys.executable, "-m", "llama_factory", *words]


def set_options(changes: Iterable[str]) -> list[str]:
    """Settings as `key=value`, as the command line takes them."""
    return [word for change in changes for word in ("--set", change)]
