"""Pass rate: share of answers whose Python code passes tests.

Every answer runs in a process of its own, without a shell and with limits of time and memory, and
its tests in another one: see `evaluation/code`. It is still code that a model wrote, run as this
user: nothing runs unless `allow_code` is set.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from llama_factory.core.errors import ConfigError
from llama_factory.evaluation.metrics import METRICS, Metric

RUNNER = Path(__file__).parents[1] / "code" / "__main__.py"
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
START_SECONDS = 5
"""Time to start Python, beside the program's own."""


@METRICS.register("pass_rate")
class PassRate(Metric):
    """Share of answers whose code passes; needs `allow_code`, as it runs what the model wrote."""

    allow_code: bool = False
    """Run the code that the model wrote, as you and on this machine. A program has no way to make
    its tests pass but to pass them, and limits stop endless and greedy ones. Nothing keeps it from
    your files or the network: use a machine or container without secrets."""
    function: Path | None = None
    """Python file with `check(expected, answer) -> bool`, run with the same limits. Empty: the
    expected answer of each row is Python that tests what the answer's code defines, and fails by
    raising. Plain values and functions go between the two; a name of Python's own, such as `sum`,
    is always Python's."""
    seconds: int = Field(10, ge=1)
    """Longest run of one answer."""
    memory_mb: int = Field(1024, ge=64)
    """Most memory of one answer."""

    def check(self) -> None:
        """See `Metric.check`."""
        if not self.allow_code:
            raise ConfigError(
                "evaluation.metrics: 'pass_rate' runs code that the model wrote. Set `allow_code: "
                "true` if this machine may run it, or leave this metric out."
            )
        if find_spec("resource") is None:
            raise ConfigError(
                "evaluation.metrics: 'pass_rate' limits programs by means that this system lacks. "
                "Use Linux or macOS, or leave this metric out."
            )
        if self.function is not None and not self.function.is_file():
            raise ConfigError(
                f"evaluation.metrics: pass_rate.function: {self.function} is no file."
            )

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`."""
        self.check()
        program, tests = self._program(expected, answer)
        limits = {"memory_mb": self.memory_mb, "seconds": self.seconds}
        job = {"program": program, "tests": tests, "start_seconds": START_SECONDS, **limits}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            return float(_passes(json.dumps(job), folder, self.seconds + 2 * START_SECONDS))

    def _program(self, expected: str, answer: str) -> tuple[str | None, str]:
        """The program, or None, and the tests that are run on it."""
        if self.function is None:
            return code_of(answer), code_of(expected)
        source = self.function.read_text(encoding="utf-8")
        return None, f"{source}\n\nassert check({expected!r}, {answer!r})\n"


def code_of(text: str) -> str:
    """The first fenced block of a text, or all of it."""
    fenced = FENCED.search(text)
    return fenced[1] if fenced else text


def _passes(job: str, folder: str, seconds: float) -> bool:
    """Run a job to its end or the end of its time, with all processes that it started."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(RUNNER)],
        cwd=folder,
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    )
    try:
        with suppress(subprocess.TimeoutExpired, BrokenPipeError):
            process.communicate(job, timeout=seconds)
            return process.returncode == 0
        return False
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
