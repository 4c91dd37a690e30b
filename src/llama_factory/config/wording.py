"""Messages in the words of the settings file: `cutoff_len` to whoever wrote that."""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager

from llama_factory.config.dialects.keys import KEYS
from llama_factory.config.origins import Origins
from llama_factory.core.progress import Bar, Progress

NATIVE = re.compile(r"\b(?:data|evaluation|model|training)\.[a-z_]+(?:\.[a-z_]+)*")
"""A native setting in a sentence."""


def words_of(origins: Origins) -> dict[str, str]:
    """What a file of flat keys calls native settings; nothing for a native file.

    A key that was given comes before others that become the same setting.
    """
    if not origins.is_flat:
        return {}
    done = origins.translation
    single = {key.target: name for name, key in reversed(KEYS.items()) if "," not in key.target}
    words = {target: name for target, name in single.items() if target}
    given = {path: name for path, name in done.sources.items() if name in done.given}
    words |= {path: name for path, name in given.items() if KEYS[name].target in ("", path)}
    kinds = {path: name for path, name in given.items() if path.endswith(".type")}
    words |= {path.removesuffix(".type"): name for path, name in kinds.items()}
    if "dataset" in done.given:
        words["data.train_path"] = "dataset"
    if "eval_dataset" in done.given:
        words["data.eval_path"] = "eval_dataset"
    return words


def reworded(text: str, words: Mapping[str, str]) -> str:
    """A message with the file's own words; names that it has no word for stay."""
    return NATIVE.sub(lambda found: words.get(found[0], found[0]), text) if words else text


class Reworded:
    """Progress whose sentences have a file's own words.

    Args:
        shown: what shows them.
        words: native setting -> the file's word.
    """

    def __init__(self, shown: Progress, words: Mapping[str, str]) -> None:
        self._shown = shown
        self._words = words

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """See `Progress.bar`."""
        return self._shown.bar(title, total, done)

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._shown.say(reworded(text, self._words))
