"""The estimate of a run in a process of its own: no model library is loaded where it is asked."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_factory.core import files
from llama_factory.core.errors import ConfigError
from llama_factory.core.own_command import environment_elsewhere, own_command
from llama_factory.jobs.outputs import RESULTS

LONGEST_SECONDS = 240.0
OFFLINE = {"HF_HUB_OFFLINE": "1"}
"""Nothing is downloaded for an estimate."""
MOST_EARLIER = 50
_one_at_a_time = threading.Lock()


def estimate_outside(folder: Path, text: str) -> dict[str, Any]:
    """What `llama-factory train --estimate --json` prints for a settings file.

    Args:
        folder: in which the run would begin.
        text: of the settings file.

    Raises:
        ConfigError: another estimate is being made, this one takes too long, or the run cannot be.
    """
    if not _one_at_a_time.acquire(blocking=False):
        raise ConfigError("Another estimate is being made. Ask again in a minute.")
    try:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "estimate.yaml"
            files.write_text(path, text)
            return _run(folder, path)
    finally:
        _one_at_a_time.release()


def _run(folder: Path, path: Path) -> dict[str, Any]:
    command = own_command(["train", str(path), "--estimate", "--json"])
    environment = environment_elsewhere(os.environ) | OFFLINE
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"Reading the rows takes more than {LONGEST_SECONDS:.0f} s, so nothing is estimated. "
            "The run itself has no such limit."
        ) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise ConfigError("\n".join(lines[-6:]) or f"It ended with code {done.returncode}.")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def earlier_speed(outputs: Path, is_alike: Mapping[str, bool]) -> float | None:
    """Tokens per second of the newest finished run that is like another; None where none is.

    Args:
        outputs: folder of the runs.
        is_alike: by name of a run whether it trained the same model in the same way.
    """
    found = []
    for name in [name for name, alike in is_alike.items() if alike][:MOST_EARLIER]:
        path = outputs / name / RESULTS
        try:
            speed = files.read_json(path)["training"]["tokens_per_second"]
            found.append((path.stat().st_mtime, float(speed)))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return max(found)[1] if found and max(found)[1] > 0 else None
