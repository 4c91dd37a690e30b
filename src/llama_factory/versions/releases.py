"""Which version is released: aliases and their history in one file, moved in one atomic write."""

import re
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.sentences import keep_kinds, kind_of_sentence, restore_kinds
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.core.types import BASE_VERSION

DAMAGED = kind(
    "problem.releases_damaged",
    "{path} is damaged ({error}). Restore it from a backup; or delete it, and the base "
    "model is released until you promote a version.",
)

PRODUCTION = "production"
PREVIOUS = "previous"
CANDIDATE = "candidate"
LOCK_SECONDS = 10.0
MOVED_MEANWHILE = kind_of_sentence(
    "release.moved_meanwhile",
    "held: it was made from {parent}, and {production} was released meanwhile. Promote it by hand "
    "if it should answer all the same",
)
BY_HAND = kind_of_sentence("release.by_hand", "promoted by hand")
ROLLED_BACK = kind_of_sentence("release.rolled_back", "rolled back")
VERSION_ID = re.compile(r"v\d{4,}")
"""What a version may be called: also the name of its folder."""


@dataclass(frozen=True)
class Release:
    """One move of the aliases."""

    time: str
    aliases: dict[str, str]
    why: str


@dataclass(frozen=True)
class Standing:
    """What a decision about a candidate rests on.

    Attributes:
        production: the version released.
        candidate: the version held.
        since: number of the move in the history since which both are; a pair that was left and
            came back is another one.
    """

    production: str
    candidate: str
    since: int


@dataclass(frozen=True)
class Releases:
    """Where the aliases point now, and every earlier state."""

    aliases: dict[str, str] = field(default_factory=lambda: {PRODUCTION: BASE_VERSION})
    history: tuple[Release, ...] = ()

    @property
    def production(self) -> str:
        """The version that answers users."""
        return self.aliases[PRODUCTION]

    @property
    def standing(self) -> Standing | None:
        """Production and the candidate, and since when; None without a candidate."""
        if CANDIDATE not in self.aliases:
            return None
        pair, since = self._pair(self.aliases), len(self.history)
        while since > 1 and self._pair(self.history[since - 2].aliases) == pair:
            since -= 1
        return Standing(self.production, self.aliases[CANDIDATE], since)

    @staticmethod
    def _pair(aliases: dict[str, str]) -> tuple[str | None, str | None]:
        return aliases.get(PRODUCTION), aliases.get(CANDIDATE)


def read(path: Path) -> Releases:
    """The current releases; a missing file means that nothing was released yet.

    Raises:
        VersionError: the file is damaged.
    """
    if not path.exists():
        return Releases()
    try:
        values = files.read_json(path)
        # What is made next is numbered after every version that the history names.
        moves = [entry | {"aliases": _checked(entry["aliases"])} for entry in values["history"]]
        history = tuple(Release(**restore_kinds(move)) for move in moves)
        return Releases(_checked(values["aliases"]), history)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise VersionError(DAMAGED(path=path, error=error)) from error


def promote(path: Path, version: str, why: str) -> Releases:
    """Release a version; the one before it becomes `previous`."""
    with _locked(path):
        return _released(path, read(path), version, why)


def promote_child(path: Path, version: str, *, parent: str, why: str) -> bool:
    """Release a version if the one it was made from is still released; else hold it.

    Whoever moved the release while the version was made decided something that the version's
    verdict knows nothing of.

    Returns:
        Whether it was released.
    """
    with _locked(path):
        current = read(path)
        if current.production == parent:
            _released(path, current, version, why)
            return True
        moved = MOVED_MEANWHILE(parent=parent, production=current.production)
        _write(path, current, {CANDIDATE: version}, moved)
        return False


def hold_child(path: Path, version: str, *, parent: str, why: str) -> bool:
    """Make a version the candidate if the one it was made from is still released.

    Returns:
        Whether it was held.
    """
    with _locked(path):
        current = read(path)
        if current.production == parent:
            _write(path, current, {CANDIDATE: version}, why)
            return True
        return False


def hold(path: Path, version: str, why: str) -> Releases:
    """Make a version the candidate without releasing it."""
    with _locked(path):
        return _write(path, read(path), {CANDIDATE: version}, why)


def promote_candidate(path: Path, standing: Standing, why: str) -> bool:
    """Release the candidate if nobody has moved production or candidate since it was compared.

    Returns:
        Whether it was released.
    """
    with _locked(path):
        current = read(path)
        if current.standing != standing:
            return False
        _released(path, current, standing.candidate, why)
        return True


def withdraw_candidate(path: Path, standing: Standing, why: str) -> bool:
    """Let no alias name the candidate, if nobody has moved production or candidate meanwhile.

    Returns:
        Whether it was withdrawn.
    """
    with _locked(path):
        current = read(path)
        if current.standing != standing:
            return False
        aliases = {name: each for name, each in current.aliases.items() if name != CANDIDATE}
        _write(path, Releases(aliases, current.history), {}, why)
        return True


def _locked(path: Path) -> AbstractContextManager[None]:
    return files.locked(path.with_suffix(".lock"), what="moving a release", seconds=LOCK_SECONDS)


def _checked(aliases: dict[str, str]) -> dict[str, str]:
    """Aliases that name versions and nothing else: they become names of folders.

    Raises:
        ValueError: one does not, or nothing is released.
    """
    if PRODUCTION not in aliases:
        raise ValueError(f"no version is '{PRODUCTION}'")
    wrong = [a for a, v in aliases.items() if not (isinstance(v, str) and VERSION_ID.fullmatch(v))]
    if wrong:
        raise ValueError(f"'{wrong[0]}' is {aliases[wrong[0]]!r}, which is no version")
    return dict(aliases)


def _released(path: Path, releases: Releases, version: str, why: str) -> Releases:
    aliases = {PRODUCTION: version, PREVIOUS: releases.production}
    kept = {PREVIOUS: releases.aliases.get(PREVIOUS, BASE_VERSION)}
    return _write(path, releases, aliases if version != releases.production else kept, why)


def _write(path: Path, releases: Releases, moved: dict[str, str], why: str) -> Releases:
    aliases = releases.aliases | moved
    if aliases.get(CANDIDATE) == aliases[PRODUCTION]:
        aliases.pop(CANDIDATE)
    history = (*releases.history, Release(now(), aliases, why))
    moves = [keep_kinds(asdict(entry)) for entry in history]
    files.write_json(path, {"aliases": aliases, "history": moves})
    return Releases(aliases, history)
