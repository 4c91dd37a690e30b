"""Several processes for one run: the environment variables of LLaMA-Factory, handed to torchrun."""

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_factory.core.errors import ConfigError

STARTED = "LOCAL_RANK"
"""Set by torchrun in each process that it starts."""
GPU_FILES = tuple(map(Path, ("/dev/nvidiactl", "/dev/nvmap", "/dev/kfd", "/dev/dxg")))
"""One of them is there where a GPU is."""
USUAL_PORT = 29500
"""Where several machines meet unless MASTER_PORT is set: all must know it beforehand."""
MEETING = {
    "MASTER_ADDR": "the address of the first machine",
    "NODE_RANK": "this machine's number",
}
GRACE, GRACE_SECONDS = "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", 3600
"""How long torchrun waits for processes that were asked to stop: they save first."""
ON_RAY = "USE_RAY"
"""LLaMA-Factory's variable for what `--on ray` says here."""
YES = ("1", "true", "y", "yes", "on")


def place_of(on: str, environment: Mapping[str, str]) -> str:
    """The cluster on which a run starts; empty where it starts here."""
    return on or ("ray" if environment.get(ON_RAY, "").lower() in YES else "")


def train_on_ray(path: Path | None, changes: list[str], place: str) -> dict[str, Any]:
    """Run `train` in the processes of a Ray cluster; returns what the first one has to show.

    Args:
        path: the settings file, which every machine reads itself.
        changes: to them.
        place: `ray`, or `ray://HOST:PORT`.
    """
    from llama_factory.config.loading import load_config
    from llama_factory.jobs.on_ray import in_processes

    config = load_config(path, changes)
    shared = (config.output_dir or Path("outputs")).absolute().parent
    asked = {"path": str(path) if path else None, "changes": changes, "folder": str(Path.cwd())}
    return in_processes(_train_in_one, asked, place, config.ray, shared=shared)


def _train_in_one(asked: Mapping[str, Any]) -> dict[str, Any]:
    """A process's part of a run, in the folder in which the command was given."""
    from llama_factory import run
    from llama_factory.cli.terminal import TerminalProgress

    os.chdir(asked["folder"])
    done = run.train(asked["path"], list(asked["changes"]), TerminalProgress())
    return done.to_json() if done.results else {}


def num_processes(environment: Mapping[str, str]) -> int:
    """How many processes this machine shall run; 0 where this one does all by itself.

    Raises:
        ConfigError: a variable is no number.
    """
    if STARTED in environment:
        return 0
    number = _number(environment, "NPROC_PER_NODE") or _num_gpus()
    is_forced = environment.get("FORCE_TORCHRUN", "").lower() in YES
    is_many = number > 1 or _number(environment, "NNODES") > 1
    return max(1, number) if is_forced or is_many else 0


def world_size(environment: Mapping[str, str]) -> int:
    """How many processes train together, on all machines, once they are started.

    Raises:
        ConfigError: a variable is no number.
    """
    if STARTED in environment:
        return _number(environment, "WORLD_SIZE") or 1
    return max(1, num_processes(environment)) * max(1, _number(environment, "NNODES"))


def launch(words: list[str], number: int) -> int:
    """Run `llama-factory train` in several processes; returns the exit code.

    Args:
        words: what follows `train`.
        number: processes on this machine.
    """
    environment = os.environ
    require_meeting_place(environment)
    machines = str(_number(environment, "NNODES") or 1)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", machines]
    command += ["--node_rank", environment.get("NODE_RANK", "0"), "--nproc_per_node", str(number)]
    command += ["--master_addr", environment.get("MASTER_ADDR", "127.0.0.1")]
    free = _free_port() if machines == "1" else USUAL_PORT
    command += ["--master_port", environment.get("MASTER_PORT") or str(free)]
    # torchrun gives every process one thread, which is right for GPUs and nothing else
    threads = str(max(1, (os.cpu_count() or 1) // number))
    settings = {"OMP_NUM_THREADS": threads, GRACE: str(GRACE_SECONDS), **environment}
    command += ["-m", "llama_factory", "train", *words]
    # Ctrl-C in a terminal would reach torchrun twice, and it would not wait the second time
    with subprocess.Popen(command, env=settings, start_new_session=True) as run:
        return _until_it_ends(run)


def require_meeting_place(environment: Mapping[str, str]) -> None:
    """Refuse at once what would let several machines wait for each other without end.

    Raises:
        ConfigError: a machine does not know where to meet the others, or which one it is.
    """
    machines = _number(environment, "NNODES")
    if machines < 2:
        return
    for name, what in MEETING.items():
        if not environment.get(name):
            raise ConfigError(
                f"NNODES is {machines} and {name} is not set. Set {name} to {what} on every "
                "machine; the first one has NODE_RANK 0."
            )
    rank, address = _number(environment, "NODE_RANK"), environment["MASTER_ADDR"]
    if rank >= machines:
        raise ConfigError(
            f"NODE_RANK is {rank}, and with NNODES {machines} the machines are numbered from 0 to "
            f"{machines - 1}."
        )
    if rank and (address in ("localhost", "::1") or address.startswith("127.")):
        raise ConfigError(
            f"MASTER_ADDR is {address}, which on this machine (NODE_RANK {rank}) is itself. Give "
            "the address at which it reaches the first machine."
        )


def _until_it_ends(run: "subprocess.Popen[bytes]") -> int:
    """Wait; a request to stop is passed on, and the processes save before they end.

    Returns:
        The exit code: torchrun's own, or what a single process gives that was asked to stop.
    """
    from llama_factory.core.signals import Stopped

    stopped = 0
    while True:
        try:
            code = run.wait()
            return code and (stopped or code)
        except Stopped as asked:
            stopped = asked.exit_code
            run.send_signal(asked.number)


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    if value and not value.isdigit():
        raise ConfigError(f"{name} must be a whole number; it is '{value}'. Set it, or unset it.")
    return int(value or 0)


def _num_gpus() -> int:
    if os.name == "posix" and not any(map(Path.exists, GPU_FILES)):
        return 0  # asking torch takes seconds
    import torch

    return torch.cuda.device_count()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
