"""The process of one job: waits for those before it, runs the command, writes down how it ended."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from llama_factory.core import files
from llama_factory.core.own_command import environment_elsewhere, own_command
from llama_factory.core.times import now
from llama_factory.jobs.background import ASKED, ENDED, LOCK, OUTPUT, STARTED, STOP

LOOK_SECONDS = 0.3
WAS_STOPPED = 128 + signal.SIGTERM
"""As a process ended by SIGTERM."""


def run_job(folder: Path) -> int:
    """Run the job of a folder to its end.

    Returns:
        The exit code of its command.
    """
    process: subprocess.Popen[bytes] | None = None

    def end(_number: int, _frame: FrameType | None) -> None:
        (folder / STOP).touch()
        if process is not None:
            process.terminate()

    signal.signal(signal.SIGTERM, end)
    code = WAS_STOPPED
    if _is_turn(folder):
        (folder / STARTED).touch()
        asked = files.read_json(folder / ASKED)
        place = asked.get("folder")
        with (folder / OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                own_command(asked["words"]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                cwd=place,
                env=None if place is None else environment_elsewhere(os.environ),
            )
            if (folder / STOP).exists():  # asked for while it was being started
                process.terminate()
            code = process.wait()
    files.write_json(folder / ENDED, {"code": code, "ended": now()})
    return code


def _is_turn(folder: Path) -> bool:
    """Wait until no earlier job lives; False where this one is stopped before."""
    names = [each.name for each in folder.parent.iterdir() if each.name.isdigit()]
    earlier = [folder.parent / name / LOCK for name in names if int(name) < int(folder.name)]
    while any(files.is_held(each) for each in earlier):
        if (folder / STOP).exists():
            return False
        time.sleep(LOOK_SECONDS)
    return not (folder / STOP).exists()


if __name__ == "__main__":
    run_job(Path(sys.argv[1]))
