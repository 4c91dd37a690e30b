"""Commands that go on when whoever began them leaves: each a process, its state in the workspace.

A job is a folder `jobs/0001/` with what was asked, its log and how it ended. Whether it lives is
told by its lock, which ends with its process, however that ends. Jobs of one workspace run one
after another, in the order in which they were begun.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.signals import BY_SIGNAL
from llama_factory.core.times import now
from llama_factory.versions.workspace import Workspace

NOT_A_JOB = kind("problem.not_a_job", "'{words}' cannot be a job. Jobs are: {known}.")
DAMAGED = kind("problem.job_damaged", "{path} is damaged ({error}).")
NO_JOB = kind("problem.no_job", "{folder}: there is no job '{id}'.")

JobState = Literal["waiting", "running", "finished", "failed", "stopped", "lost"]
VERBS = ("learn", "consolidate", "monitor", "evaluate", "train", "predict", "export", "compare")
"""Commands that may be jobs."""
ASKED, STARTED, ENDED, LOCK, PID, STOP = (
    "asked.json", "started", "ended.json", "lock", "pid", "stop",
)  # fmt: skip
LOG, OUTPUT = "log", "output"
LOG_BYTES = 64_000


@dataclass(frozen=True)
class BackgroundJob:
    """A command that was begun.

    Attributes:
        id: its number, such as `0001`.
        words: the command, such as `("learn", "my-bot")`.
        who: began it.
        began: UTC time, ISO 8601.
        state: how it is; `lost` where its process ended without a word.
        code: its exit code; None while there is none.
        ended: when it ended; empty while it has not.
    """

    id: str
    words: tuple[str, ...]
    who: str
    began: str
    state: JobState
    code: int | None = None
    ended: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ("waiting", "running")


def begin(
    workspace: Workspace, words: Sequence[str], who: str, *, here: bool = False
) -> BackgroundJob:
    """Start a command that outlives this process. No shell sees its words.

    Args:
        workspace: whose job; or a folder in which single runs lie.
        words: the command and its arguments.
        who: asks for it.
        here: whether paths among its words and in its settings begin in the workspace.

    Raises:
        VersionError: the command may not be a job.
    """
    if not words or words[0] not in VERBS:
        raise VersionError(NOT_A_JOB(words=" ".join(words), known=", ".join(VERBS)))
    folder = _new_folder(workspace)
    asked = {"words": list(words), "who": who, "began": now()}
    files.write_json(folder / ASKED, asked | ({"folder": str(workspace.folder)} if here else {}))
    with (folder / LOCK).open("wb") as lock, (folder / LOG).open("wb") as log:
        _hold(lock.fileno())
        # The child inherits the lock: it is held from here to the end of the child, without a gap.
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_factory.jobs.job_process", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fileno()],
            start_new_session=True,
        )
    files.write_text(folder / PID, str(process.pid))
    threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie
    return _read(folder)


def list_jobs(workspace: Workspace, last: int | None = None) -> list[BackgroundJob]:
    """Jobs, the newest first; what cannot be read is left out."""
    names = sorted(_names(workspace), reverse=True)
    jobs = []
    for name in names if last is None else names[:last]:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            jobs.append(_read(workspace.jobs / name))
    return jobs


def read_job(workspace: Workspace, job_id: str) -> BackgroundJob:
    """One job.

    Raises:
        VersionError: there is none with this number.
    """
    try:
        return _read(_folder_of(workspace, job_id))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise VersionError(DAMAGED(path=workspace.jobs / job_id, error=f"{error!r}")) from error


def read_log(workspace: Workspace, job_id: str, most: int = LOG_BYTES) -> str:
    """The end of what a job printed.

    Args:
        workspace: whose job.
        job_id: its number.
        most: so many bytes.
    """
    folder = _folder_of(workspace, job_id)
    texts = [_tail(folder / name, most) for name in (LOG, OUTPUT)]
    return "\n".join(text for text in texts if text)


def stop_job(workspace: Workspace, job_id: str) -> BackgroundJob:
    """Ask a job to stop at a safe point; one that has ended stays as it is.

    Raises:
        VersionError: there is none with this number.
    """
    folder = _folder_of(workspace, job_id)
    if files.is_held(folder / LOCK):  # else the number may be another process's by now
        (folder / STOP).touch()
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((folder / PID).read_text(encoding="utf-8")), signal.SIGTERM)
    return read_job(workspace, job_id)


def _names(workspace: Workspace) -> list[str]:
    if not workspace.jobs.is_dir():
        return []
    return [path.name for path in workspace.jobs.iterdir() if _is_number(path.name)]


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) >= 4


def _new_folder(workspace: Workspace) -> Path:
    workspace.jobs.mkdir(exist_ok=True)
    number = max(map(int, _names(workspace)), default=0)
    while True:
        number += 1
        folder = workspace.jobs / f"{number:04d}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder


def _folder_of(workspace: Workspace, job_id: str) -> Path:
    folder = workspace.jobs / job_id
    if not _is_number(job_id) or not (folder / ASKED).is_file():
        raise VersionError(NO_JOB(folder=workspace.folder, id=job_id[:40]))
    return folder


def _read(folder: Path) -> BackgroundJob:
    asked = files.read_json(folder / ASKED)
    ended: dict[str, Any] = {}
    if (folder / ENDED).exists():
        ended = files.read_json(folder / ENDED)
        state: JobState = _ended_state(ended["code"], was_asked=(folder / STOP).exists())
    elif files.is_held(folder / LOCK):
        state = "running" if (folder / STARTED).exists() else "waiting"
    else:
        state = "stopped" if (folder / STOP).exists() else "lost"
    return BackgroundJob(
        folder.name,
        tuple(map(str, asked["words"])),
        str(asked["who"]),
        str(asked["began"]),
        state,
        ended.get("code"),
        ended.get("ended", ""),
    )


def _ended_state(code: int, *, was_asked: bool) -> JobState:
    if code == 0:
        return "finished"
    return "stopped" if was_asked or code in BY_SIGNAL else "failed"


def _hold(descriptor: int) -> None:
    import fcntl

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _tail(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
