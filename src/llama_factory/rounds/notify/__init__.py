"""Receivers of messages, one kind a file: who is told what the loop does."""

from pathlib import Path
from typing import Any

from llama_factory.core.errors import FactoryError
from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.versions.journal import What

USUAL: list[What] = ["released", "held", "rollback", "canary", "parked", "alert", "consolidated"]


class NotDeliveredError(FactoryError):
    """A receiver did not take a message; it is tried again later."""


class Receiver(Settings):
    """Somebody who is told what happens."""

    events: list[What] = USUAL
    """Which events of the journal are sent."""

    @property
    def name(self) -> str:
        """Identifies the receiver from start to start: messages that wait are for this name."""
        raise NotImplementedError

    def problem(self) -> str:
        """Why nothing can be sent to it as things are; empty where nothing is wrong."""
        return ""

    def send(self, key: str, message: dict[str, Any], folder: Path) -> None:
        """Send one message; it may come twice, with the same key.

        Args:
            key: of the message.
            message: plain values: the workspace and the event of the journal.
            folder: of the workspace.

        Raises:
            NotDeliveredError: it was not taken; the message has the reason.
        """
        raise NotImplementedError


RECEIVERS: Registry[Receiver] = Registry("receiver")
import_parts(__name__, __path__)
