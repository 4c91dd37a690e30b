"""Programs of the user's own: run without a shell, and killed with all they started when late."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from llama_factory.core.durations import show_duration

MAX_OUTPUT = 2000
"""Characters of what a program printed that are kept, the last ones."""


@dataclass(frozen=True)
class CommandResult:
    """What became of a program.

    Attributes:
        problem: why it did not end well, with what it printed; empty where it did.
        output: the end of what it printed.
    """

    problem: str
    output: str


def run_command(
    words: Sequence[str],
    text: str,
    *,
    folder: Path,
    timeout: timedelta,
    environment: Mapping[str, str] | None = None,
) -> CommandResult:
    """Run a program to its end.

    Args:
        words: the program and its arguments.
        text: its standard input.
        folder: where it runs.
        timeout: after which it is killed.
        environment: beside this process's own.
    """
    try:
        process = subprocess.Popen(
            [_resolved(words[0], folder), *words[1:]],
            cwd=folder,
            env=os.environ | dict(environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return CommandResult(f"cannot be run: {error.strerror}", "")
    try:
        printed, _ = process.communicate(text.encode(), timeout.total_seconds())
    except subprocess.TimeoutExpired:
        return CommandResult(f"killed: it ran for {show_duration(timeout)}", _killed(process))
    output = _shown(printed)
    quoted = f": {output}" if output else ", and printed nothing"
    code = process.returncode
    return CommandResult(f"ended with exit code {code}{quoted}" if code else "", output)


def _resolved(name: str, folder: Path) -> str:
    """A path as the folder has it; a bare name is looked up as usual."""
    return str(folder / name) if "/" in name else name


def _killed(process: subprocess.Popen[bytes]) -> str:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        printed, _ = process.communicate(timeout=1)
        return _shown(printed)
    return ""


def _shown(printed: bytes) -> str:
    return printed.decode(errors="replace").strip()[-MAX_OUTPUT:]
