"""A program of the user's own that is run for each message."""

import json
import shlex
from datetime import timedelta
from pathlib import Path
from typing import Any

from llama_factory.core.durations import Duration
from llama_factory.rounds.commands import run_command
from llama_factory.rounds.notify import RECEIVERS, NotDeliveredError, Receiver


@RECEIVERS.register("command")
class Command(Receiver):
    """Runs a program with the message as JSON on its standard input; no shell is in between."""

    run: str
    """The program and its arguments; a path begins at the workspace."""
    timeout: Duration = timedelta(seconds=30)
    """After which it is killed, with all that it started, and tried again later."""

    @property
    def name(self) -> str:
        """See `Receiver`."""
        return f"command {self.run}"

    def send(self, key: str, message: dict[str, Any], folder: Path) -> None:
        """See `Receiver`."""
        text = json.dumps(message | {"key": key}, ensure_ascii=False)
        done = run_command(shlex.split(self.run), text, folder=folder, timeout=self.timeout)
        if done.problem:
            raise NotDeliveredError(f"{self.run}: {done.problem}")
