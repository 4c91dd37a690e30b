"""A workspace: the folder in which one model lives and learns. Paths only, no behaviour."""

import os
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core.errors import VersionError, suggest

SETTINGS_FILE = "factory.yaml"
PathLike = str | os.PathLike[str]
"""A path; a `Workspace` is one too."""


@dataclass(frozen=True)
class Workspace:
    """Where things lie in a workspace."""

    folder: Path

    def __fspath__(self) -> str:
        return str(self.folder)

    @staticmethod
    def create(folder: PathLike) -> "Workspace":
        """The folders of a new workspace.

        Raises:
            VersionError: the folder is there and not empty.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()):
            raise VersionError(f"{folder} exists and is not empty. Give a new folder's name.")
        workspace = Workspace(folder.resolve())
        for path in (workspace.inbox, workspace.quarantine, workspace.versions):
            path.mkdir(parents=True, exist_ok=True)
        return workspace

    @staticmethod
    def open(folder: PathLike) -> "Workspace":
        """A workspace that exists.

        Raises:
            VersionError: the folder is none; the message names the nearest one beside it.
        """
        folder = Path(folder)
        if (folder / SETTINGS_FILE).is_file():
            return Workspace(folder.resolve())
        around = folder.parent if folder.parent.is_dir() else Path()
        known = [path.parent.name for path in around.glob(f"*/{SETTINGS_FILE}")]
        what = "has no factory.yaml" if folder.exists() else "does not exist"
        raise VersionError(
            f"{folder} is not a workspace: it {what}.{suggest(folder.name, known)} "
            f"Make one with `llama-factory init {folder}`."
        )

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.folder / SETTINGS_FILE

    @property
    def inbox(self) -> Path:
        """New files are dropped here."""
        return self.folder / "inbox"

    @property
    def parked(self) -> Path:
        """Files that were learned and left the inbox, until the next round deletes them."""
        return self.folder / ".taken"

    @property
    def quarantine(self) -> Path:
        """Rows and files refused, each with its reason."""
        return self.folder / "quarantine"

    @property
    def review(self) -> Path:
        """Rows that people decide about, and every decision."""
        return self.folder / "review"

    @property
    def feedback(self) -> Path:
        """What users said of answers, by day, and the conversations that they may speak of."""
        return self.folder / "feedback"

    @property
    def conversations(self) -> Path:
        """Conversations that are kept for long, where `serving.log_conversations` says so."""
        return self.folder / "conversations"

    @property
    def votes(self) -> Path:
        """Which of two answers people liked, a line each."""
        return self.folder / "votes.jsonl"

    @property
    def versions(self) -> Path:
        """All versions."""
        return self.folder / "versions"

    @property
    def building(self) -> Path:
        """The round in progress; a crash or Ctrl-C leaves it for the next start."""
        return self.versions / ".building"

    @property
    def releases(self) -> Path:
        """Aliases and their history."""
        return self.folder / "releases.json"

    @property
    def canary(self) -> Path:
        """The trial of a candidate on a few callers: its counts, its end, and earlier trials."""
        return self.folder / "canary.json"

    @property
    def shadow(self) -> Path:
        """Answers of candidates beside those of production, by version."""
        return self.folder / "shadow"

    @property
    def jobs(self) -> Path:
        """Commands that were begun from the page, each with its log and its end."""
        return self.folder / "jobs"

    @property
    def runs(self) -> Path:
        """TensorBoard logs."""
        return self.folder / "runs"

    @property
    def cache(self) -> Path:
        """What files came to when they were read and tokenised; may be removed at any time."""
        return self.folder / ".cache"

    @property
    def lock(self) -> Path:
        """Held while a round is in progress."""
        return self.folder / ".round.lock"

    @property
    def watch_lock(self) -> Path:
        """Held by the one process that watches the inbox."""
        return self.folder / ".watch.lock"

    @property
    def journal(self) -> Path:
        """What happened, in order."""
        return self.folder / "journal.db"

    @property
    def monitor(self) -> Path:
        """Series of numbers about drift and health, a line each."""
        return self.folder / "monitor.jsonl"
