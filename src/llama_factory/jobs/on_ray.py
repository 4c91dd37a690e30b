"""A single run in processes that a Ray cluster starts, and starts again where one of them is lost.

Ray places the processes and lets them meet; what they do is what torchrun's do. A run that is
started again goes on from its own newest checkpoint, so every machine must see its output folder.
There the processes also see that the command was asked to stop; they save, and end.
"""

import importlib
import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, FactoryError
from llama_factory.core.settings import Settings
from llama_factory.core.signals import Stopped, asked_by, stopping_safely

NAME = "ray"
RESULTS = "results.json"
"""What the first process leaves for the command that started it."""
STOP, STOPPED = "stop", "stopped"
"""Files beside it: the command was asked to stop by that signal; the processes have stopped."""
LOOK_SECONDS = 0.2
INSTALL = "pip install 'llama-factory-continual[ray]'"


class RaySettings(Settings):
    """Processes on a Ray cluster: `llama-factory train --on ray`, or USE_RAY=1."""

    workers: int = Field(1, ge=1)
    """Processes that train together, on all machines of the cluster; with GPUs, one for each."""
    cpus_per_worker: int = Field(1, ge=1)
    """Cores that the cluster keeps free for each process. A run waits until all fit."""
    max_failures: int = Field(3, ge=0)
    """How often all processes are started again where one is lost; they go on from the newest
    checkpoint. 0: never."""
    init: dict[str, Any] = {}
    """What `ray.init` is given besides the address, such as `runtime_env`."""


def address_of(place: str) -> str | None:
    """The address of a cluster in `ray` or `ray://HOST:PORT`; None for one of this machine alone.

    Raises:
        ConfigError: it names no Ray cluster.
    """
    if place == NAME:
        return None
    if place.startswith(f"{NAME}://") and len(place) > len(NAME) + 3:
        return place
    raise ConfigError(
        f"--on {place}: runs start here, or on a Ray cluster. Write ray for one that this machine "
        "makes or belongs to, or ray://HOST:10001."
    )


def require() -> None:
    """Refuse early where Ray is missing.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec(NAME) is None:
        raise ConfigError(f"--on ray needs Ray, which is not installed: {INSTALL}.")


def in_processes(
    work: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    asked: Mapping[str, Any],
    place: str,
    wanted: RaySettings,
    *,
    shared: Path,
) -> dict[str, Any]:
    """Do something in the cluster's processes, which share a process group, and wait for it.

    Args:
        work: every process calls it; what the first one returns counts.
        asked: plain values that it is given.
        place: see `address_of`.
        wanted: how many processes, of what size.
        shared: a folder that every machine of the cluster sees.

    Raises:
        ConfigError: Ray is not installed, or `place` names no cluster.
        FactoryError: it failed more often than it may.
        Stopped: the command was asked to stop, and the processes have saved.
    """
    address = address_of(place)
    require()
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    ray: Any = importlib.import_module(NAME)
    try:
        ray.init(address=address, **wanted.init)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"--on {place}: no Ray cluster can be used so: {error}") from error
    try:
        has_gpus = ray.cluster_resources().get("GPU", 0) >= wanted.workers
        shared.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".ray-", dir=shared) as folder:
            part = partial(_work, work, dict(asked))
            return _fit(part, wanted, Path(folder), has_gpus=has_gpus)
    finally:
        ray.shutdown()


def _fit(
    work: Callable[[dict[str, Any]], None], wanted: RaySettings, folder: Path, *, has_gpus: bool
) -> dict[str, Any]:
    train: Any = importlib.import_module("ray.train")
    torch: Any = importlib.import_module("ray.train.torch")
    gpus = {"GPU": 1} if has_gpus else {}
    results = folder / RESULTS
    trainer = torch.TorchTrainer(
        work,
        train_loop_config={RESULTS: str(results)},
        scaling_config=train.ScalingConfig(
            num_workers=wanted.workers,
            use_gpu=has_gpus,
            resources_per_worker={"CPU": wanted.cpus_per_worker, **gpus},
        ),
        torch_config=torch.TorchConfig(backend=None if has_gpus else "gloo"),
        run_config=train.RunConfig(
            storage_path=str(folder),
            failure_config=train.FailureConfig(
                max_failures=wanted.max_failures, max_preemption_failures=-1
            ),
        ),
    )
    try:
        _wait(trainer.fit, folder)
    except _failures() as error:
        raise FactoryError(_problem(error)) from error
    if number := _number_in(folder / STOPPED):
        raise Stopped(number)
    found: dict[str, Any] = files.read_json(results) if results.is_file() else {}
    return found


def _wait(fit: Callable[[], object], folder: Path) -> None:
    """Wait for the end of a run; a request to stop is passed on to its processes.

    Raises:
        Stopped: at once, when a second request arrives.
    """
    pool = ThreadPoolExecutor(1)  # Ray takes over Ctrl-C in the main thread, and would not save
    running = pool.submit(fit)
    pool.shutdown(wait=False)
    with stopping_safely() as asked:
        while not running.done():
            if asked() and not (folder / STOP).exists():
                files.write_text(folder / STOP, str(asked()))
            wait([running], LOOK_SECONDS)
    running.result()


def _number_in(path: Path) -> int:
    """The number of a signal in a file; 0 where there is none."""
    return int(path.read_text(encoding="utf-8")) if path.exists() else 0


def _failures() -> type[Exception]:
    """What Ray raises where processes failed too often."""
    api: Any = importlib.import_module("ray.train.v2.api.exceptions")
    kind: type[Exception] = api.TrainingFailedError
    return kind


def _work(
    work: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    asked: Mapping[str, Any],
    told: Mapping[str, Any],
) -> None:
    """The part of one process, which Ray has let meet the others."""
    import torch

    train: Any = importlib.import_module("ray.train")
    os.environ["NODE_RANK"] = str(train.get_context().get_node_rank())
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    path = Path(told[RESULTS])
    found: Any
    try:
        with asked_by(partial(_number_in, path.with_name(STOP))):
            found = dict(work(asked))
    except Stopped as stopped:  # as a failure, it would be begun anew
        path, found = path.with_name(STOPPED), stopped.number
    if os.environ["RANK"] == "0":
        files.write_json(path, found)


def _problem(error: Exception) -> str:
    """What went wrong in the processes: our own sentence where there is one."""
    failures = getattr(error, "worker_failures", {}) or {}
    for failure in failures.values():
        cause: Any = failure
        while cause is not None:
            if isinstance(cause, FactoryError):
                return str(cause)
            cause = getattr(cause, "cause", None) or cause.__cause__
    return f"The run failed on Ray: {error}"
