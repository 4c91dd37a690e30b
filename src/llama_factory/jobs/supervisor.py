"""Several commands of this program under one roof: started together, started again, ended together.

What `llama-factory up` runs on one machine; containers and systemd have supervisors of their own.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from llama_factory.core.errors import ConfigError
from llama_factory.core.own_command import own_command, set_options
from llama_factory.core.tether import tethered

SETTLED_SECONDS = 30.0
"""A part that ran for so long was up: its next death is met with a short wait again."""
LONGEST_WAIT = 60.0
"""Seconds between the death of a part and its next start, at most."""
END_SECONDS = 180.0
"""How long parts may take to end by themselves: answers and checkpoints in progress."""
BAD_SETTINGS = 2
"""The exit code of a message that a person must act on."""
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Part:
    """One command that is kept running.

    Attributes:
        name: before each of its lines.
        command: program and arguments.
    """

    name: str
    command: tuple[str, ...]


@dataclass
class _Running:
    part: Part
    process: subprocess.Popen[str] | None = None
    began: float = 0.0
    due: float = 0.0
    num_deaths: int = 0
    was_up: bool = False
    readers: list[threading.Thread] = field(default_factory=list)


class Supervisor:
    """Keeps parts running until it is asked to stop.

    Args:
        parts: what runs.
        say: takes each of their lines, after the part's name.
        clock: seconds; tests have their own.
        environment: variables of the parts beside those of this process.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._running = [_Running(part) for part in parts]
        self._say = say
        self._clock = clock
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}

    def run(self, stop: threading.Event) -> None:
        """Run all parts until `stop` is set; they have ended when this returns.

        Must stay on the thread that calls it: on Linux the parts end with that thread.

        Raises:
            ConfigError: a part refused its settings before it was ever up; its own lines say why.
        """
        try:
            while not stop.is_set():
                for each in self._running:
                    self._look_after(each)
                stop.wait(LOOK_SECONDS)
        finally:
            self._end_all()

    def _look_after(self, each: _Running) -> None:
        now = self._clock()
        if each.process is None:
            if now >= each.due:
                self._start(each, now)
            return
        code = each.process.poll()
        if now - each.began >= SETTLED_SECONDS and code is None:
            each.was_up, each.num_deaths = True, 0
        if code is not None:
            self._ended(each, code, now)

    def _start(self, each: _Running, now: float) -> None:
        each.process = subprocess.Popen(
            tethered(each.part.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self._environment,
            start_new_session=True,
        )
        each.began = now
        reader = threading.Thread(target=self._pass_on, args=(each.part, each.process), daemon=True)
        reader.start()
        each.readers = [reader]

    def _ended(self, each: _Running, code: int, now: float) -> None:
        for reader in each.readers:
            reader.join(5)
        each.process = None
        if code == BAD_SETTINGS and not each.was_up:
            raise ConfigError(
                f"{each.part.name} did not start; its lines above say why. Mend that, then start "
                "again. Everything else was stopped."
            )
        each.num_deaths += 1
        wait = min(LONGEST_WAIT, 2.0 ** (each.num_deaths - 1))
        each.due = now + wait
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self._say(f"{each.part.name} | {how}; it is started again in {wait:.0f} s.")

    def _pass_on(self, part: Part, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None, "it was opened with a pipe"
        for line in process.stdout:
            self._say(f"{part.name} | {line.rstrip()}")

    def _end_all(self) -> None:
        """Ask all to end, wait, then end what is left by force, with all that it started."""
        processes = [each.process for each in self._running if each.process is not None]
        for process in processes:
            _signal(process, signal.SIGTERM, to_group=False)
        until = time.monotonic() + END_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        for process in processes:
            _signal(process, signal.SIGKILL, to_group=True)
            process.wait()
        for each in self._running:
            for reader in each.readers:
                reader.join(5)


def parts_of(
    folder: str, changes: Sequence[str], port: int | None, *, has_page: bool = True
) -> tuple[Part, ...]:
    """What `llama-factory up` runs: the server and the watcher of a workspace.

    Args:
        folder: the workspace.
        changes: settings of both, as `key=value`.
        port: of the server; None for that of the settings.
        has_page: whether the page is on the server's port beside the API.
    """
    sets = set_options(changes)
    at = [] if port is None else ["--port", str(port)]
    verb = "web" if has_page else "serve"
    return (
        Part("server", tuple(own_command([verb, folder, *at, *sets]))),
        Part("watcher", tuple(own_command(["watch", folder, *sets]))),
    )


def _signal(process: subprocess.Popen[str], number: int, *, to_group: bool) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if to_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
