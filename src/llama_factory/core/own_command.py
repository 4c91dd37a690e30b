"""Commands of this program that run as processes of their own."""

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path


def own_command(words: Iterable[str]) -> list[str]:
    """The command line that runs `llama-factory` with these words, whatever the PATH holds."""
    return [sys.executable, "-m", "llama_factory", *words]


def set_options(changes: Iterable[str]) -> list[str]:
    """Settings as `key=value`, as the command line takes them."""
    return [word for change in changes for word in ("--set", change)]


def environment_elsewhere(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a command of this program runs in another folder than this one.

    Python looks for modules in the current folder first, so a file that somebody put there could
    stand for a library; that is switched off. Places of modules are written from the root.
    """
    given = environment.get("PYTHONPATH", "").split(os.pathsep)
    places = [
        str(Path(__file__).parents[2]),
        *(str(Path(each).resolve()) for each in given if each),
    ]
    more = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(places)), "PYTHONSAFEPATH": "1"}
    return {**environment, **more}
