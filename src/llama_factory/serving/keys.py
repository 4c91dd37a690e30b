"""Keys of the API: who may ask what. On disk are hashes and limits, never a key itself.

A key is 256 random bits, so that its plain SHA-256 can neither be guessed nor looked up.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from llama_factory.core import files
from llama_factory.core.errors import ServingError, suggest
from llama_factory.core.sentences import kind_of_sentence as kind
from llama_factory.core.times import now
from llama_factory.serving.access import NAME, SCOPES, ApiKey

UNREADABLE = kind(
    "problem.keys_unreadable",
    "{path} cannot be read ({error}), so none of its keys is accepted. Restore it from a "
    "backup; or move it away and create the keys anew.",
)
KEY_NAME = kind(
    "problem.key_name",
    "--name: '{name}' cannot name a key. Take up to 40 letters, digits, '.', '_' and "
    "'-', and not {reserved}.",
)
KEY_TAKEN = kind(
    "problem.key_taken",
    "--name: there is already a key '{name}' in {path}, and a name is never used twice: "
    "feedback and the log name it. Take another one.",
)
NO_KEY = kind("problem.no_key", "{path} has no active key '{name}'.{hint} There are: {known}.")

logger = logging.getLogger(__name__)

PREFIX = "lf-"
"""How a key begins, so that people and scanners of leaked secrets recognise it."""

ENVIRONMENT = "API_KEY"
"""The name of the key that the environment variable of that name holds."""

HASH = re.compile(r"[0-9a-f]{64}")
LOCK_SECONDS = 10.0
LOOK_SECONDS = 0.5
"""How often a running server looks whether keys were created or revoked."""


class _KeyFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    keys: tuple[ApiKey, ...]


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file, those that were revoked included; a missing file has none.

    Raises:
        ServingError: the file is damaged or cannot be read.
    """
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ServingError(UNREADABLE(path=path, error=error)) from error


def create_key(path: Path, key: ApiKey) -> str:
    """Add a key to a file; what clients send is returned once and kept nowhere.

    Raises:
        ServingError: the name is taken or no name, or the file is damaged.
        VersionError: the folder cannot be written to.
    """
    if not NAME.fullmatch(key.name) or key.name == ENVIRONMENT:
        raise ServingError(KEY_NAME(name=key.name, reserved=ENVIRONMENT))
    secret = PREFIX + secrets.token_urlsafe(32)
    with files.locked(path.with_suffix(".lock"), what="changing keys", seconds=LOCK_SECONDS):
        keys = read_keys(path)
        if key.name in {each.name for each in keys}:
            raise ServingError(KEY_TAKEN(name=key.name, path=path))
        _write(path, (*keys, replace(key, sha256=_hash(secret), created=now())))
    return secret


def revoke_key(path: Path, name: str) -> ApiKey:
    """End a key; running servers refuse it within two seconds.

    Raises:
        ServingError: there is no such key, or the file is damaged.
        VersionError: the folder cannot be written to.
    """
    with files.locked(path.with_suffix(".lock"), what="changing keys", seconds=LOCK_SECONDS):
        keys = read_keys(path)
        names = [key.name for key in keys if key.is_active]
        if name not in names:
            known = ", ".join(names) or "none"
            raise ServingError(NO_KEY(path=path, name=name, hint=suggest(name, names), known=known))
        revoked = [replace(key, revoked=now()) if key.name == name else key for key in keys]
        _write(path, tuple(revoked))
    return next(key for key in revoked if key.name == name)


class KeyRing:
    """The keys that a running server accepts. Follows the file; where in doubt nobody gets in."""

    def __init__(self, path: Path | None, environment: str | None = None) -> None:
        """Read the keys.

        Args:
            path: the file of keys; None for none.
            environment: a key with all scopes, such as that of the environment; may be empty.
        """
        self._path = path
        self._fixed = (
            (ApiKey(ENVIRONMENT, SCOPES, sha256=_hash(environment)),) if environment else ()
        )
        self._active: tuple[ApiKey, ...] = ()
        self._stamp: object = None
        self.is_required = bool(environment)
        self.problem = ""
        self.look()

    @property
    def active(self) -> tuple[ApiKey, ...]:
        """The keys that get in."""
        return (*self._fixed, *self._active)

    def owner(self, secret: str) -> ApiKey | None:
        """Whose key this is; takes as long for a wrong key as for a right one."""
        # Headers arrive as Latin-1, whatever bytes were sent.
        digest = _hash(secret, "latin-1")
        owners = [key for key in self.active if secrets.compare_digest(key.sha256, digest)]
        return owners[0] if owners else None

    def holds(self, key: ApiKey) -> bool:
        """Whether a key that got in before still may."""
        return any(key.sha256 == each.sha256 for each in self.active)

    def look(self) -> None:
        """Take over what the file says now. A file that is damaged ends all of its keys."""
        if self._path is None or (stamp := files.state_of(self._path)) == self._stamp:
            return
        self._stamp = stamp
        # Once keys were asked for they are until the end: whoever deletes the file opens nothing.
        self.is_required = self.is_required or self._path.exists()
        try:
            keys = read_keys(self._path)
        except ServingError as error:
            self._active, self.problem, self.is_required = (), str(error), True
            logger.error("%s", error)  # a message, not a traceback
        else:
            self._active, self.problem = tuple(key for key in keys if key.is_active), ""

    @contextlib.asynccontextmanager
    async def followed(self) -> AsyncIterator[None]:
        """Look again and again meanwhile."""
        watcher = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            watcher.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.look)
            except Exception:  # the next look is due, else no revocation would ever arrive
                logger.exception("the keys cannot be looked at")


def _parse(text: bytes) -> tuple[ApiKey, ...]:
    """The keys of a file's text.

    Raises:
        ValueError: it is damaged.
    """
    try:
        keys = _KeyFile.model_validate_json(text).keys
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(f"{place}: {problem['msg']}" if place else problem["msg"]) from None
    wrong = [k.name for k in keys if not (NAME.fullmatch(k.name) and HASH.fullmatch(k.sha256))]
    if wrong:
        raise ValueError(f"{wrong[0][:40]!r} is no key with a name and a SHA-256")
    if len({key.name for key in keys}) < len(keys):
        raise ValueError("two keys have one name")
    return keys


def _write(path: Path, keys: Sequence[ApiKey]) -> None:
    with files.reporting_full_disk(path.parent, what="keys are written"):
        files.write_json(path, {"keys": [asdict(key) for key in keys]}, is_private=True)


def _hash(secret: str, encoding: str = "utf-8") -> str:
    return hashlib.sha256(secret.encode(encoding, "replace")).hexdigest()
