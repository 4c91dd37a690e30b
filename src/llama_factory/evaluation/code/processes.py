"""The two processes of a job, their limits, and how they end."""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from llama_factory.evaluation.code.channel import Channel
from llama_factory.evaluation.code.judge import Judge
from llama_factory.evaluation.code.program import Program

MEGABYTE = 2**20
MOST_WRITTEN = 16 * MEGABYTE
MOST_FILES = 64
NOT_PASSED = 1
SELF = Path(__file__).with_name("__main__.py")


def main() -> None:
    """Judge a job, which comes as JSON, or be the process of its program.

    The exit code is whether the tests passed: no other process can choose it.
    """
    if len(sys.argv) > 1:
        _be_program(*map(int, sys.argv[1:]))
    job = json.load(sys.stdin)
    _stay_unread()
    try:
        is_passed = _judge(job)
    except BaseException:  # noqa: BLE001 - tests fail by whatever they raise
        is_passed = False
    finally:
        _kill_children()
    os._exit(0 if is_passed else NOT_PASSED)


def _judge(job: dict[str, Any]) -> bool:
    """Whether all tests of a job pass, and nothing runs out."""
    deadline = time.monotonic() + job["seconds"] + job["start_seconds"]
    if job["program"] is None:
        _limit(job, is_program=False)
        exec(compile(job["tests"], "tests.py", "exec"), {"__name__": "tests"})
        return True
    (to_read, for_it), (for_us, to_write) = os.pipe(), os.pipe()
    Path("answer").mkdir()
    subprocess.Popen(
        [sys.executable, "-I", str(SELF), str(for_us), str(for_it)],
        cwd="answer",
        env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(for_us, for_it),
    )
    os.close(for_us)
    os.close(for_it)
    _limit(job, is_program=False)
    channel = Channel(to_read, to_write, deadline)
    channel.send({"limits": job})
    judge = Judge(channel)
    judge.run(job["tests"], judge.start(job["program"]))
    return True


def _be_program(reads: int, writes: int) -> None:
    """Run what the tests' process sends, under limits, until it is gone."""
    channel = Channel(reads, writes)
    _limit(channel.receive()["limits"], is_program=True)
    _lose_privileges()
    try:
        Program(channel).serve()
    finally:
        os._exit(NOT_PASSED)


def _limit(job: dict[str, Any], *, is_program: bool) -> None:
    limits = {
        resource.RLIMIT_AS: job["memory_mb"] * MEGABYTE,
        resource.RLIMIT_CPU: job["seconds"],
        resource.RLIMIT_FSIZE: MOST_WRITTEN,
        resource.RLIMIT_NOFILE: MOST_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if is_program:
        limits[resource.RLIMIT_NPROC] = 0
    for limit, most in limits.items():
        resource.setrlimit(limit, (most, most))


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _stay_unread() -> None:
    """No other process of this user may read or change the memory of this one (Linux).

    Processes that a program starts and leaves behind become this one's, so that they can be ended.
    """
    _prctl(4, 0)  # PR_SET_DUMPABLE
    _prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def _lose_privileges() -> None:
    """Also the system's own user may not look into other processes then (Linux)."""
    if sys.platform != "linux":
        return
    _prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    none = (ctypes.c_uint32 * 6)()
    capset = getattr(ctypes.CDLL(None), "capset", None)
    if capset is not None:
        capset(header, none)


def _kill_children() -> None:
    """End all processes that descend from this one (Linux)."""
    while children := _children():
        for each in children:
            try:
                os.kill(each, signal.SIGKILL)
                os.waitpid(each, 0)
            except OSError:
                return


def _children() -> list[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
        return [int(each) for each in text.split()]
    except OSError:
        return []
