"""A server process that is ours: started, its log kept, ended with all that it started."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from llama_factory.core.tether import tethered

END_SECONDS = 10.0
"""How long it may take to end by itself before it is killed."""
LOG_BYTES = 4000
"""Bytes at the end of its log in which the reason of a death is looked for."""
DROPPED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP", "API_KEY")
"""Variables of this process that would mislead another environment's Python, and our own key."""


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Child:
    """One run of a command."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @staticmethod
    async def start(command: Sequence[str], more: Mapping[str, str], log: Path) -> "Child":
        """Start a command in a process group of its own.

        Args:
            command: program and arguments.
            more: environment variables beside this process's.
            log: takes what it prints; the log of the run before is kept beside it.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists():
            log.replace(log.with_suffix(".before.log"))
        kept = {name: value for name, value in os.environ.items() if name not in DROPPED}
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *tethered(command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**kept, **more},
                cwd=log.parent,
                start_new_session=True,
            )
        return Child(process, log)

    @property
    def id(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    async def ended(self) -> str:
        """Wait until it ends; how it ended, with the last line of its log."""
        code = await self._process.wait()
        how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
        return f"it {how}: {self.last_line()} (log: {self._log})"

    def last_line(self) -> str:
        """The end of its log."""
        with contextlib.suppress(OSError):
            end = self._log.read_bytes()[-LOG_BYTES:].decode(errors="replace")
            lines = [line.strip() for line in end.splitlines() if line.strip()]
            return lines[-1][:300] if lines else "it printed nothing"
        return "its log cannot be read"

    async def stop(self) -> None:
        """End it and what it started; after some seconds by force."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), END_SECONDS)
        self._signal(signal.SIGKILL)  # also what outlived the first process of the group
        await self._process.wait()

    async def kill(self) -> None:
        """End it at once: it hangs, and would not hear anything else."""
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
