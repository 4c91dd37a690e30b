"""Who may use the page: names, roles, and passwords as scrypt hashes. No HTTP."""

import hashlib
import logging
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from llama_factory.core import files
from llama_factory.core.errors import ServingError, suggest
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.serving.access import NAME

UNREADABLE = kind(
    "problem.users_unreadable",
    "{path} cannot be read ({error}), so nobody can log in. Restore it from a backup; or "
    "move it away and add the users anew.",
)

logger = logging.getLogger(__name__)

Role = Literal["viewer", "reviewer", "operator"]
ROLES: tuple[Role, ...] = get_args(Role)
"""Low to high: each may do what those before it may."""

FILE = "users.json"
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 1000
LOCK_SECONDS = 10.0
SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}
"""About 50 ms and 16 MiB a guess."""
FREE_TRIES = 5
FIRST_WAIT_SECONDS = 30.0
LONGEST_WAIT_SECONDS = 900.0
MOST_NAMES = 10_000
"""Names that failed are remembered; more than so many are forgotten, the oldest first."""


@dataclass(frozen=True)
class PageUser:
    """Somebody who may log in.

    Attributes:
        name: what logs, notes and decisions call them.
        role: what they may do.
        salt: of the password's hash, as hex.
        scrypt: the hash, as hex.
        created: UTC time, ISO 8601.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # where it is read from a file

    name: str
    role: Role
    salt: str
    scrypt: str
    created: str

    def may(self, role: Role) -> bool:
        """Whether the role is at least this one."""
        return ROLES.index(self.role) >= ROLES.index(role)


class _UserFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    users: tuple[PageUser, ...]


def read_users(path: Path) -> tuple[PageUser, ...]:
    """The users of a file; a missing file has none.

    Raises:
        ServingError: the file is damaged or cannot be read.
    """
    try:
        return _UserFile.model_validate_json(path.read_bytes()).users
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise ServingError(UNREADABLE(path=path, error=type(error).__name__)) from error


def add_user(path: Path, name: str, role: str, password: str) -> PageUser:
    """Let somebody log in, or give who may already another role and password.

    Raises:
        ServingError: the name, role or password cannot be taken, or the file is damaged.
    """
    if not NAME.fullmatch(name):
        raise ServingError(
            f"'{name}' cannot name a user. Take up to 40 letters, digits, '.', '_' and '-', "
            "a letter or digit first."
        )
    if role not in ROLES:
        raise ServingError(
            f"--role: there is no role '{role}'.{suggest(role, ROLES)} There are: "
            f"{', '.join(ROLES)}."
        )
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ServingError(
            f"the password has {len(password)} characters: it must have {SHORTEST_PASSWORD} to "
            f"{LONGEST_PASSWORD}."
        )
    salt = secrets.token_bytes(16)
    added = PageUser(name, role, salt.hex(), _hash(password, salt).hex(), now())
    with files.locked(path.with_suffix(".lock"), what="changing users", seconds=LOCK_SECONDS):
        others = [each for each in read_users(path) if each.name != name]
        _write(path, [*others, added])
    return added


def remove_user(path: Path, name: str) -> None:
    """Let somebody log in no more; open sessions end with the next request.

    Raises:
        ServingError: nobody has the name, or the file is damaged.
    """
    with files.locked(path.with_suffix(".lock"), what="changing users", seconds=LOCK_SECONDS):
        known = read_users(path)
        left = [each for each in known if each.name != name]
        if len(left) == len(known):
            names = [each.name for each in known]
            raise ServingError(
                f"{path}: there is no user '{name}'.{suggest(name, names)} "
                f"There are: {', '.join(names) or 'none'}."
            )
        _write(path, left)


def find_user(users: Sequence[PageUser], name: str, password: str) -> PageUser | None:
    """The user with this name and password; takes as long where there is no such name."""
    user = next((each for each in users if each.name == name), None)
    salt = bytes.fromhex(user.salt) if user else bytes(16)
    digest = _hash(password[:LONGEST_PASSWORD], salt).hex()
    is_right = secrets.compare_digest(digest, user.scrypt if user else "")
    return user if is_right else None


class LoginLimits:
    """Makes whoever guesses passwords wait, twice as long after each further failure."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}

    def wait(self, name: str) -> float:
        """Seconds until the name may be tried again; 0 where it may now."""
        count, last = self._failures.get(name, (0, 0.0))
        if count < FREE_TRIES:
            return 0.0
        pause = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** (count - FREE_TRIES))
        return max(0.0, last + pause - self._clock())

    def note(self, name: str, *, is_right: bool) -> None:
        """Remember how a try ended."""
        count, _ = self._failures.pop(name, (0, 0.0))
        if is_right:
            return
        self._failures[name] = (count + 1, self._clock())
        if count + 1 >= FREE_TRIES:
            logger.warning("%d log-ins as %r failed in a row", count + 1, name[:40])
        while len(self._failures) > MOST_NAMES:
            self._failures.pop(next(iter(self._failures)))


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode("utf-8", "replace"), salt=salt, **SCRYPT)


def _write(path: Path, users: Sequence[PageUser]) -> None:
    files.write_json(path, {"users": [asdict(each) for each in users]}, is_private=True)
