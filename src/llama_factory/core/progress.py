"""How long work shows how far it is: rooms report through `Progress`, and only the CLI draws."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One piece of long work in progress."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """`steps` more are done; `note` holds the numbers worth seeing now."""


class Progress(Protocol):
    """Whatever shows progress to the user."""

    def bar(self, title: str, total: int, done: int = 0) -> AbstractContextManager[Bar]:
        """Open a bar of `total` steps of which `done` are done already."""

    def say(self, text: str) -> None:
        """One line that stays on the screen."""


class _Silent:
    def advance(self, steps: int = 1, note: str = "") -> None:
        """Nothing is shown."""

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator["_Silent"]:
        yield self

    def say(self, text: str) -> None:
        """Nothing is shown."""


SILENT: Progress = _Silent()
