"""What all commands print with: the console, JSON for programs, and progress.

Progress is a bar with the time left; plain lines where there is no terminal.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 10.0

# a file or a pipe has no width of its own; 80 columns would cut the tables
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def print_json(value: Any) -> None:
    """A result for programs, readable by people too."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


class TerminalProgress:
    """Draws on stderr, so that `--json` output stays clean."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def say(self, text: str) -> None:
        """One line that stays on the screen."""
        self._console.print(text, markup=False, highlight=False)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator["_Bar | _Lines"]:
        """Open a bar of `total` steps of which `done` are done already."""
        if not self._console.is_terminal:
            yield _Lines(self, title, total, done)
            return
        from rich import progress as rich_progress

        columns = (
            rich_progress.TextColumn("{task.description}"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("ETA"),
            rich_progress.TimeRemainingColumn(),
            rich_progress.TextColumn("{task.fields[note]}"),
        )
        with rich_progress.Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total, completed=done, note="")
            yield _Bar(progress, task)


class _Bar:
    def __init__(self, progress: "RichProgress", task: "TaskID") -> None:
        self._progress = progress
        self._task = task

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=steps, note=note)


class _Lines:
    """The first step, the last one, and one line every few seconds between them."""

    def __init__(self, progress: TerminalProgress, title: str, total: int, done: int) -> None:
        self._progress = progress
        self._title = title
        self._total = total
        self._first = self._done = done
        self._started = time.monotonic()
        self._last_line = 0.0

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last_line < SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._last_line = now
        each = (now - self._started) / max(1, self._done - self._first)
        left = (
            f"ETA {each * (self._total - self._done):.0f} s" if self._done < self._total else "done"
        )
        self._progress.say(f"{self._title} {self._done}/{self._total}  {left}  {note}".rstrip())
