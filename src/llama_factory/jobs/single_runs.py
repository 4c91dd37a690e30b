"""Single runs in the queue of a workspace or a folder: each a settings file, an output and jobs.

`outputs/NAME.yaml` is what `llama-factory train` is started with, in the folder, and `outputs/NAME`
is where it writes. Runs wait for each other and outlive whoever began them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.jobs import background
from llama_factory.jobs.background import BackgroundJob
from llama_factory.jobs.outputs import NEW, is_whole
from llama_factory.rounds.progress import read_updates
from llama_factory.training.monitor import TRAINER_LOG
from llama_factory.versions.workspace import Workspace

RUN_NAME = kind(
    "problem.run_name",
    "'{name}' cannot name a run: take letters, digits, '.', '_' and '-', at most 60.",
)
NO_RUN = kind("problem.no_run", "{folder}: there is no run '{name}'.")
QUEUED = kind("problem.run_queued", "The run '{name}' is in the queue already.")
DONE = kind("problem.run_done", "The run '{name}' is done. Begin a new one.")

OUTPUTS = "outputs"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
MOST_UPDATES = 2000
MOST_JOBS = 300
"""The newest: older ones have ended."""


@dataclass(frozen=True)
class QueuedRun:
    """A run that was begun here.

    Attributes:
        name: of it.
        job: its newest job.
        num_before: runs and other jobs that end before it begins.
        newest: what was written of its last update; nothing before the first one.
        is_whole: whether its output holds a trained model.
    """

    name: str
    job: BackgroundJob
    num_before: int
    newest: Mapping[str, Any]
    is_whole: bool


def output_of(name: str) -> str:
    """Where a run writes, from its folder.

    Raises:
        ConfigError: it cannot be a name.
    """
    if not NAME.fullmatch(name) or name.endswith(".yaml"):
        raise ConfigError(RUN_NAME(name=name[:80]))
    return f"{OUTPUTS}/{name}"


def settings_of(workspace: Workspace, name: str) -> Path:
    """The settings file of a run."""
    return workspace.folder / f"{output_of(name)}.yaml"


def free_name(workspace: Workspace) -> str:
    """A name that no run has."""
    number = 1
    while _exists(workspace, f"run-{number:03d}"):
        number += 1
    return f"run-{number:03d}"


def name_problem(workspace: Workspace, name: str, *, overwrites: bool) -> str:
    """Why a new run cannot have a name; empty where it can."""
    try:
        output = workspace.folder / output_of(name)
    except ConfigError as error:
        return str(error)
    if is_queued(workspace, name):
        return f"The run '{name}' is in the queue already. Give another name."
    if not output.resolve().is_relative_to(workspace.folder.resolve()):
        return f"outputs/{name} is a link that leaves the folder. Give another name."
    if _exists(workspace, name) and not overwrites:
        return f"There is a run '{name}' already. Give another name, or set overwrite_output_dir."
    return ""


def is_queued(workspace: Workspace, name: str) -> bool:
    """Whether a run waits or is in progress."""
    jobs = background.list_jobs(workspace, MOST_JOBS)
    return any(job.is_alive and run_of(job) == name for job in jobs)


def begin(
    workspace: Workspace, name: str, text: str, who: str, *, overwrites: bool = False
) -> BackgroundJob:
    """Put a new run into the queue.

    Args:
        workspace: or a folder of runs.
        name: of the run.
        text: of its settings file.
        who: asks for it.
        overwrites: whether a finished run of this name may be replaced.

    Raises:
        ConfigError: there is a run of that name.
    """
    (workspace.folder / OUTPUTS).mkdir(exist_ok=True)
    lock = workspace.folder / OUTPUTS / ".queue.lock"
    with files.locked(lock, what="putting a run into the queue", seconds=10):
        if problem := name_problem(workspace, name, overwrites=overwrites):
            raise ConfigError(problem)
        files.write_text(settings_of(workspace, name), text)
        return background.begin(workspace, words_of(name), who, here=True)


def go_on(workspace: Workspace, name: str, who: str) -> BackgroundJob:
    """Put a run that was stopped into the queue again; it goes on from its last checkpoint.

    Raises:
        VersionError: there is none of that name.
        ConfigError: it is in the queue, or done.
    """
    if not settings_of(workspace, name).is_file():
        raise VersionError(NO_RUN(folder=workspace.folder.name, name=name))
    lock = workspace.folder / OUTPUTS / ".queue.lock"
    with files.locked(lock, what="putting a run into the queue", seconds=10):
        if is_queued(workspace, name):
            raise ConfigError(QUEUED(name=name))
        if is_whole(workspace.folder / output_of(name)):
            raise ConfigError(DONE(name=name))
        return background.begin(workspace, words_of(name), who, here=True)


def words_of(name: str) -> list[str]:
    """The command of a run, as it is given in the folder."""
    return ["train", f"{output_of(name)}.yaml"]


def run_of(job: BackgroundJob) -> str:
    """The name of the run that a job trains; empty where it does something else."""
    if job.words[0] != "train" or len(job.words) != 2:
        return ""
    path = Path(job.words[1])
    return path.stem if path.parent == Path(OUTPUTS) else ""


def list_runs(workspace: Workspace, last: int) -> list[QueuedRun]:
    """Runs that were begun here, each with its newest job: the newest first."""
    jobs = background.list_jobs(workspace, 5 * last)
    alive = sorted(int(job.id) for job in jobs if job.is_alive)
    runs: dict[str, QueuedRun] = {}
    for job in jobs:
        name = run_of(job)
        if name and name not in runs and NAME.fullmatch(name):
            output = workspace.folder / OUTPUTS / name
            num_before = sum(number < int(job.id) for number in alive)
            rows = updates(output, 1)
            newest = rows[-1] if rows else {}
            runs[name] = QueuedRun(name, job, num_before, newest, is_whole(output))
    return list(runs.values())[:last]


def updates(output: Path, most: int = MOST_UPDATES) -> tuple[dict[str, Any], ...]:
    """Numbers of a run's last updates, oldest first; nothing where there is none yet."""
    making = output.with_name(f".{output.name}{NEW}") / TRAINER_LOG
    return read_updates(making if making.is_file() else output / TRAINER_LOG, most)


def _exists(workspace: Workspace, name: str) -> bool:
    output = workspace.folder / OUTPUTS / name
    return output.exists() or output.is_symlink() or output.with_name(f"{name}.yaml").exists()
