"""Which version is released: aliases and their history in one file, moved in one atomic write."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.types import BASE_VERSION

PRODUCTION = "production"
PREVIOUS = "previous"
CANDIDATE = "candidate"
LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Release:
    """One move of the aliases."""

    time: str
    aliases: dict[str, str]
    why: str


@dataclass(frozen=True)
class Releases:
    """Where the aliases point now, and every earlier state."""

    aliases: dict[str, str] = field(default_factory=lambda: {PRODUCTION: BASE_VERSION})
    history: tuple[Release, ...] = ()

    @property
    def production(self) -> str:
        """The version that answers users."""
        return self.aliases[PRODUCTION]


def now() -> str:
    """UTC time to the second, ISO 8601."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


def read(path: Path) -> Releases:
    """The current releases; a missing file means that nothing was released yet.

    Raises:
        VersionError: the file is damaged.
    """
    if not path.exists():
        return Releases()
    try:
        values = files.read_json(path)
        history = tuple(Release(**entry) for entry in values["history"])
        return Releases(dict(values["aliases"]), history)
    except (ValueError, TypeError, KeyError) as error:
        raise VersionError(
            f"{path} is damaged ({error}). Restore it from a backup; or delete it, and the base "
            "model is released until you promote a version."
        ) from error


def promote(path: Path, version: str, why: str) -> Releases:
    """Release a version; the one before it becomes `previous`."""
    with files.locked(path.with_suffix(".lock"), what="moving a release", seconds=LOCK_SECONDS):
        releases = read(path)
        aliases = {PRODUCTION: version, PREVIOUS: releases.production}
        kept = {PREVIOUS: releases.aliases.get(PREVIOUS, BASE_VERSION)}
        return _write(path, releases, aliases if version != releases.production else kept, why)


def hold(path: Path, version: str, why: str) -> Releases:
    """Make a version the candidate without releasing it."""
    with files.locked(path.with_suffix(".lock"), what="moving a release", seconds=LOCK_SECONDS):
        return _write(path, read(path), {CANDIDATE: version}, why)


def _write(path: Path, releases: Releases, moved: dict[str, str], why: str) -> Releases:
    aliases = releases.aliases | moved
    if aliases.get(CANDIDATE) == aliases[PRODUCTION]:
        aliases.pop(CANDIDATE)
    history = (*releases.history, Release(now(), aliases, why))
    files.write_json(path, {"aliases": aliases, "history": [asdict(entry) for entry in history]})
    return Releases(aliases, history)
