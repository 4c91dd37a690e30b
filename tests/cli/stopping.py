"""A command that trains, asked to stop after some updates."""

import os
import subprocess
import sys
import time
from pathlib import Path

QUIET = {"RAY_memory_monitor_refresh_ms": "0", "OMP_NUM_THREADS": "1"}


def asked_to_stop(words: list[str], folder: Path, *, num_updates: int, **environment: str) -> int:
    """Exit code of a command that is sent SIGTERM once it has made so many updates.

    Args:
        words: what follows `llama-factory train`.
        folder: where the run writes.
        num_updates: that it may make before.
        environment: variables besides the usual ones.
    """
    command = [sys.executable, "-m", "llama_factory", "train", *words]
    metrics, printed = folder / "metrics.jsonl", folder.with_suffix(".txt")
    given = {**os.environ, **QUIET, **environment}
    with (
        printed.open("w") as out,
        subprocess.Popen(command, env=given, stdout=out, stderr=out) as job,
    ):
        while not metrics.exists() or metrics.read_text().count("\n") < num_updates:
            assert job.poll() is None, printed.read_text()
            time.sleep(0.01)
        job.terminate()
        return job.wait(300)


def kept_steps(folder: Path) -> list[int]:
    """The updates after which a run's checkpoints were written."""
    return sorted(int(path.name[5:]) for path in (folder / "checkpoints").glob("step-*"))
