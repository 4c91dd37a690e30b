"""Which version each name means to a request that arrives now. Follows releases.json."""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from llama_factory.core import files
from llama_factory.core.errors import FactoryError, suggest
from llama_factory.core.types import BASE_VERSION
from llama_factory.serving.errors import UnknownModelError
from llama_factory.serving.loaded import LoadedVersions
from llama_factory.versions import releases, store
from llama_factory.versions.releases import CANDIDATE, PREVIOUS, PRODUCTION, Releases
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""When a version that could not be loaded is tried again although no file changed: what failed may
have been the memory or the disk."""


@dataclass(frozen=True)
class _Attempt:
    """One try to load a version.

    Attributes:
        state: what releases.json says, and the state of the version's files.
        began: seconds on the monotonic clock.
        loading: the work; its result says whether it succeeded.
    """

    state: str
    began: float
    loading: asyncio.Task[bool]

    @property
    def holds(self) -> bool:
        """Whether it is under way, or failed so lately that it would fail again."""
        if not self.loading.done():
            return True
        is_loaded = not self.loading.cancelled() and self.loading.result()
        return not is_loaded and time.monotonic() - self.began < RETRY_SECONDS


class ReleasedVersions:
    """The aliases as this server honours them.

    They differ from releases.json for the moment in which a newly released version is loaded, and
    for as long as the file names a version that cannot be served.

    Args:
        workspace: whose releases are followed.
        versions: what is loaded.
        name: one more of the released version.
        takes_any: names that nothing has mean the released version too.
    """

    def __init__(
        self,
        workspace: Workspace,
        versions: LoadedVersions,
        *,
        name: str = "",
        takes_any: bool = False,
    ) -> None:
        self._name = name
        self._takes_any = takes_any
        self._workspace = workspace
        self._versions = versions
        self._complaints: dict[str, str] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._beginning: asyncio.Task[None] | None = None
        self._read: tuple[object, Releases] | None = None
        self.released = BASE_VERSION
        self.aliases: dict[str, str] = {PRODUCTION: BASE_VERSION}

    async def begin(self) -> None:
        """Load what is released now or, where that cannot be served, was released before.

        Further calls wait for the first and do nothing.

        Raises:
            FactoryError: releases.json is damaged, or no version that was ever released answers.
        """
        if self._beginning is None:
            self._beginning = asyncio.create_task(self._begin())
        await self._beginning

    @property
    def production(self) -> str:
        """The version that answers where no other is asked for."""
        return self.aliases[PRODUCTION]

    @property
    def needed(self) -> set[str]:
        """The versions to keep loaded: those with an alias, and those that are being loaded."""
        return {*self.aliases.values(), *self._attempts}

    @property
    def refused(self) -> set[str]:
        """The versions with an alias that cannot be served at the moment."""
        return self._complaints.keys() - {""}

    def names(self) -> dict[str, str]:
        """Every name that a request may use, with the version it means."""
        versions = {version_id: version_id for version_id in store.ids(self._workspace)}
        own = {each: self.production for each in (self._workspace.folder.name, self._name) if each}
        return {**own, **versions, **self.aliases}

    def version_named(self, name: str) -> str:
        """The version that a name means now.

        Raises:
            UnknownModelError: there is none.
        """
        if name in self.aliases:  # found without the disk, which may have a bad moment
            return self.aliases[name]
        names = self.names()
        if name not in names and self._takes_any:
            return self.production
        if name not in names:
            raise UnknownModelError(
                f"model: there is no '{name}' here.{suggest(name, names)} "
                f"There are: {', '.join(names)}."
            )
        return names[name]

    async def follow(self, *, poll_seconds: float) -> None:
        """Take over what releases.json says, again and again, whatever goes wrong."""
        while True:
            loading = [each.loading for each in self._attempts.values() if not each.loading.done()]
            if loading:  # what has been loaded is taken over at once
                await asyncio.wait(loading, timeout=poll_seconds)
            else:
                await asyncio.sleep(poll_seconds)
            await self.look()

    async def look(self) -> None:
        """Take over what releases.json says now. Never waits for the engine.

        A version that is loaded answers from now on. One that is not is loaded meanwhile, and the
        version released before goes on answering until it is.
        """
        try:
            now = await asyncio.to_thread(self._releases)
            await self._take(now)
            self._versions.keep(self.needed)
        # Whatever fails, the next look is due: else no release would ever arrive again.
        except Exception as error:  # noqa: BLE001
            self._complain("", f"{self.production} goes on answering", error)
        else:
            self._complaints.pop("", None)

    def _releases(self) -> Releases:
        """What releases.json says; it is read again when it changed."""
        path = self._workspace.releases
        stamp = files.stamp_of(path)
        if self._read is None or self._read[0] != stamp:
            self._read = stamp, releases.read(path)
        return self._read[1]

    async def _take(self, now: Releases) -> None:
        self.released = now.production
        before = self.production
        is_taken = self._versions.is_ready(self.released)
        production = self.released if is_taken else before
        self.aliases = now.aliases | {PRODUCTION: production}
        # At once: between this line and the next look an answer may end, and make room.
        self._versions.keep(self.needed)
        if production != before:
            logger.info("%s is released and answers instead of %s", production, before)
        # A version that a rollback would bring back, or that is tried on a few, is loaded before
        # it is needed.
        wanted = {self.released, *(self.aliases.get(each, "") for each in (PREVIOUS, CANDIDATE))}
        for version_id in self._attempts.keys() - wanted:
            self._forget(version_id)
        for version_id in sorted(wanted - {""}):
            await self._load(version_id, now)

    async def _load(self, version_id: str, now: Releases) -> None:
        if self._versions.is_ready(version_id):
            self._forget(version_id)
            return
        folder = self._workspace.versions / version_id
        state = f"{now}\n{await asyncio.to_thread(_state, folder)}"
        attempt = self._attempts.get(version_id)
        if attempt and attempt.state == state and attempt.holds:
            return
        if attempt and attempt.state != state:
            self._forget(version_id)
        loading = asyncio.create_task(self._try(version_id))
        self._attempts[version_id] = _Attempt(state, time.monotonic(), loading)

    def _forget(self, version_id: str) -> None:
        self._complaints.pop(version_id, None)
        if attempt := self._attempts.pop(version_id, None):
            attempt.loading.cancel()

    async def _try(self, version_id: str) -> bool:
        try:
            await self._versions.prepare(version_id)
        except Exception as error:  # noqa: BLE001  # the version released before goes on answering
            self._complain(version_id, self._refusal(version_id), error)
            return False
        return True

    async def _begin(self) -> None:
        now = await asyncio.to_thread(releases.read, self._workspace.releases)
        self.released = now.production
        self.aliases = now.aliases | {PRODUCTION: await self._first_that_answers(now)}
        self._versions.keep(self.needed)

    async def _first_that_answers(self, now: Releases) -> str:
        first: Exception | None = None
        for version_id in _released_before(now):
            try:
                await self._versions.prepare(version_id)
            except Exception as error:  # noqa: BLE001  # an older release is better than none
                first = first or error
                logger.error("%s cannot be served: %s", version_id, error)
            else:
                if first:
                    logger.error("%s answers instead of %s", version_id, now.production)
                return version_id
        assert first is not None
        raise first

    def _refusal(self, version_id: str) -> str:
        if version_id == self.aliases.get(CANDIDATE):
            return f"{version_id} cannot be served, so the candidate answers nobody"
        if version_id != self.released:
            return f"{version_id} cannot be served, so a rollback to it would fail"
        return f"{self.production} goes on answering: {version_id} cannot be served"

    def _complain(self, about: str, what: str, error: Exception) -> None:
        """Log once, not at every look: a damaged file stays damaged until someone mends it."""
        complaint = f"{what}: {error!r}"
        if self._complaints.get(about) == complaint:
            return
        self._complaints[about] = complaint
        is_foreseen = isinstance(error, FactoryError)
        logger.error("%s: %s", what, error, exc_info=None if is_foreseen else error)


def _released_before(found: Releases) -> list[str]:
    """What is released, then what a rollback brings back, then earlier releases, newest first."""
    earlier = [entry.aliases[PRODUCTION] for entry in reversed(found.history)]
    before = found.aliases.get(PREVIOUS, found.production)
    return list(dict.fromkeys([found.production, before, *earlier]))


def _state(folder: Path) -> str:
    """Changes whenever a version's files do."""
    return "\n".join(map(_stamp, [folder, *sorted(folder.rglob("*"))]))


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except OSError as error:
        return f"{path} {error.errno}"
    return f"{path} {found.st_ino} {found.st_size} {found.st_mtime_ns}"
