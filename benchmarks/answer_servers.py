"""Servers as processes of their own, of which all but the measured one are halted."""

import contextlib
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import answer_load
import common
import httpx
import psutil

from llama_factory.model import source

START_SECONDS = 300.0
SERVE = ["transformers[serving]==5.23.0", "torch==2.13.0"]
LLAMA_CPP = ["xllamacpp==2026.10.11549"]
LLAMA_CPP_SERVER = common.ROOT / "peers" / "llama_cpp_server.py"


@dataclass(frozen=True)
class Program:
    """A server that can be started.

    Attributes:
        name: in the tables.
        command: `{port}` is put in.
        model: the name to ask for.
        environment: beside that of this process.
        more: fields of a request that it needs.
    """

    name: str
    command: tuple[str, ...]
    model: str
    environment: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)


def ours(name: str, workspace: Path, changes: Sequence[str], threads: int) -> Program:
    """This project's server on a workspace."""
    chosen = [word for change in changes for word in ("--set", change)]
    command = (sys.executable, "-m", "llama_factory", "serve", str(workspace), "--port", "{port}")
    usage = {"stream_options": {"include_usage": True}}
    return Program(name, (*command, *chosen), "production", limited(threads), usage)


def transformers_serve(
    name: str, model: Path, threads: int, dtype: str = "float32", blocks: int = 96
) -> Program:
    """`transformers serve` with continuous batching; its number format and memory named.

    Left to itself it reserves what a graphics card has.
    """
    python = common.peer_python("transformers_serve", SERVE)
    command = (
        *(str(python.with_name("transformers")), "serve", str(model), "--port", "{port}"),
        *("--host", "127.0.0.1", "--continuous-batching", "--dtype", dtype, "--device", "cpu"),
        *("--cb-num-blocks", str(blocks), "--cb-max-batch-tokens", "512"),
    )
    offline = {"HF_HUB_OFFLINE": "1"}
    return Program(name, command, str(model), limited(threads) | offline)


def llama_cpp(gguf: Path, threads: int, slots: int = 64) -> Program:
    """llama.cpp's own server, from the package xllamacpp."""
    python = common.peer_python("xllamacpp", LLAMA_CPP)
    command = (str(python), str(LLAMA_CPP_SERVER), str(gguf), "{port}", str(threads), str(slots))
    usage = {"stream_options": {"include_usage": True}}
    return Program("llama.cpp", command, "default", more=usage)


def embedded_gguf() -> Path:
    """The file of the embedded model, from which ours is converted.

    Raises:
        SystemExit: the package is not installed.
    """
    package = importlib.util.find_spec(source.PACKAGE)
    if package is None or package.origin is None:
        sys.exit(f"llama.cpp: the package {source.PACKAGE} is not installed. Leave llama.cpp out.")
    return Path(package.origin).with_name(source.GGUF_FILE)


def limited(threads: int) -> dict[str, str]:
    """So many threads for the products of PyTorch."""
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


class Process:
    """A server that runs: it can be halted, so that another has the machine to itself."""

    def __init__(self, program: Program, log: Path) -> None:
        """Start it; `ready` waits for it."""
        self.program, self._log = program, log
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        command = [word.replace("{port}", str(port)) for word in program.command]
        self._started = time.perf_counter()
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(program.environment),
                start_new_session=True,
            )

    def ready(self) -> float:
        """Wait until it answers; gives the seconds since it was started.

        Raises:
            SystemExit: it ended, or never answers.
        """
        while time.perf_counter() - self._started < START_SECONDS:
            if self._process.poll() is not None:
                break
            with contextlib.suppress(httpx.HTTPError):
                if (
                    httpx.get(self.url.replace("/v1", "/health"), timeout=5).status_code
                    == httpx.codes.OK
                ):
                    return time.perf_counter() - self._started
            time.sleep(0.1)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
        sys.exit(f"{self.program.name} does not answer. The end of {self._log}:\n{tail}")

    def load(self, max_tokens: int, models: Sequence[str] = ()) -> answer_load.Load:
        """How to ask it."""
        names = tuple(models) or (self.program.model,)
        return answer_load.Load(self.url, names, max_tokens, self.program.more)

    def halt(self) -> None:
        """Let it compute nothing until it is let go on."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it compute again."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        self.go_on()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def memory_mb(self) -> float:
        """What it and its children hold that nobody else holds, now."""
        whole = psutil.Process(self._process.pid)
        each = [whole, *whole.children(recursive=True)]
        return sum(process.memory_full_info().uss for process in each) / 1e6


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def halted(programs: Sequence[Program], logs: Path) -> Iterator[dict[str, Process]]:
    """All servers, started one after the other, warmed up and halted."""
    logs.mkdir(parents=True, exist_ok=True)
    processes: dict[str, Process] = {}
    try:
        for program in programs:
            log = logs / f"{program.name.replace(' ', '_')}.log"
            log.unlink(missing_ok=True)
            processes[program.name] = process = Process(program, log)
            seconds = process.ready()
            answer_load.run(process.load(8), 2, 1, first=90_000)
            print(f"{program.name} is ready after {seconds:.1f} s", file=sys.stderr)
            process.halt()
        yield processes
    finally:
        ending = [threading.Thread(target=each.stop) for each in processes.values()]
        for thread in ending:
            thread.start()
        for thread in ending:
            thread.join()


@contextlib.contextmanager
def alone(process: Process) -> Iterator[Process]:
    """Let one of the halted servers compute meanwhile."""
    process.go_on()
    try:
        yield process
    finally:
        process.halt()
