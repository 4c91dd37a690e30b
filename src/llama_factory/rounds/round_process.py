"""A round in a process of its own: its memory comes back, and its crash is an event."""

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil  # type: ignore[import-untyped]

from llama_factory.core import files
from llama_factory.core.own_command import own_command
from llama_factory.core.ownership import WAIT
from llama_factory.core.signals import BY_SIGNAL
from llama_factory.rounds.loop_settings import ProcessSettings
from llama_factory.versions.workspace import Workspace

MAX_ERROR = 2000
LOG_BYTES = 16_000
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class ProcessEnd:
    """How a process ended.

    Attributes:
        code: its exit code.
        result: what it printed, read as JSON; empty where it printed none.
        error: the end of what it wrote about itself.
    """

    code: int
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def was_stopped(self) -> bool:
        """Whether it is no failure: somebody asked it to stop, or another round runs here, such as
        one whose watcher was killed."""
        return self.code in BY_SIGNAL or (self.code == 2 and self.error.endswith(WAIT))


class RoundProcess:
    """A command of this program that runs beside this process."""

    def __init__(
        self, workspace: Workspace, words: Sequence[str], settings: ProcessSettings
    ) -> None:
        """Start it.

        Args:
            workspace: whose round.
            words: the command, such as `["learn", "my-bot", "--json"]`.
            settings: how far it stands back.
        """
        folder = workspace.cache / "watch"
        folder.mkdir(parents=True, exist_ok=True)
        self._output, self._log = folder / "round.json", folder / "round.log"
        threads = str(settings.threads) if settings.threads else None
        chosen = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads} if threads else {}
        environment = os.environ | {name: value for name, value in chosen.items() if value}
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                own_command(words),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=log,
                env=environment,
            )
        if settings.nice and os.name == "posix":
            with contextlib.suppress(psutil.Error):
                psutil.Process(self._process.pid).nice(settings.nice)

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def poll(self) -> ProcessEnd | None:
        """How it ended; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        error = ""
        with contextlib.suppress(OSError):  # the cache may be removed at any time
            error = self._log.read_text(encoding="utf-8", errors="replace").strip()[-MAX_ERROR:]
        return ProcessEnd(code, self._result(), error)

    def stop(self) -> None:
        """Ask it to stop at a safe point, and wait for that."""
        if self._process.poll() is None:
            self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)

    def _result(self) -> dict[str, Any]:
        with contextlib.suppress(ValueError, OSError):
            return dict(json.loads(self._output.read_text(encoding="utf-8")))
        return {}


def read_log(workspace: Workspace, most: int = LOG_BYTES) -> str:
    """The end of what the last such process wrote about itself; empty where there was none.

    Args:
        workspace: whose round.
        most: bytes.
    """
    try:
        lines = files.last_lines(workspace.cache / "watch" / "round.log", most)
        return b"".join(lines).decode("utf-8", "replace").strip()
    except OSError:
        return ""
