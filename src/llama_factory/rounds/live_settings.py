"""The settings of a loop that runs: read again when their file changes."""

from collections.abc import Callable
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.rounds.status import LoopConfig


class LiveSettings:
    """The settings that were right last.

    Attributes:
        now: these settings.
    """

    def __init__(self, path: Path, load: Callable[[], LoopConfig]) -> None:
        """Read them.

        Raises:
            ConfigError: they are wrong.
        """
        self._path, self._load = path, load
        self._stamp = files.stamp_of(path)
        self.now = load()

    def read(self) -> str:
        """Take over what changed in the file; what is wrong in it changes nothing.

        Returns:
            What is wrong, once; else nothing.
        """
        stamp = files.stamp_of(self._path)
        if stamp == self._stamp:
            return ""
        self._stamp = stamp
        try:
            self.now = self._load()
        except ConfigError as error:
            return f"the settings are wrong, and those before go on: {error}"
        return ""

    def require_receivers(self) -> None:
        """Refuse messages that could never be sent.

        Raises:
            ConfigError: one lacks something; the message names it.
        """
        for number, receiver in enumerate(self.now.loop.notify):
            if problem := receiver.problem():
                raise ConfigError(f"loop.notify.{number}: {problem}")
