"""Which versions are in the engine: loaded when needed, kept while they answer, then let go."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from llama_factory.core.types import BASE_VERSION
from llama_factory.serving.engines.engine import AnswerEngine
from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)


class LoadedVersions:
    """The versions of a workspace that an engine holds. Lives on the event loop."""

    def __init__(self, workspace: Workspace, engine: AnswerEngine, max_versions: int) -> None:
        self._workspace = workspace
        self._engine = engine
        self._max_versions = max_versions
        self._kept: frozenset[str] = frozenset()
        self._pinned: set[str] = set()
        self._in_use: Counter[str] = Counter()
        self._used: dict[str, None] = {}  # least recently used first
        self._leaving: set[str] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._loading: dict[str, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def is_ready(self, version_id: str) -> bool:
        """Whether a version answers now, and goes on to."""
        return version_id in self._engine.loaded and version_id not in self._leaving

    def keep(self, version_ids: set[str]) -> None:
        """Keep these versions loaded from now on; others leave when room is wanted."""
        self._kept = frozenset(version_ids)
        self._make_room()

    async def prepare(self, version_id: str) -> None:
        """Check a version's files, load it, and make sure that it answers.

        Raises:
            FactoryError: the version is damaged or does not fit the base model.
        """
        if (loading := self._loading.get(version_id)) is None:
            loading = asyncio.ensure_future(self._load(version_id))
            self._loading[version_id] = loading
            loading.add_done_callback(lambda done: self._loaded(version_id, done))
        # Whoever waits may leave; what was begun is finished, and nobody else's load is cut.
        await asyncio.shield(loading)

    @asynccontextmanager
    async def held(self, version_id: str) -> AsyncIterator[None]:
        """Keep a version loaded for as long as it answers; load it where it is not.

        Raises:
            FactoryError: the version is damaged or does not fit the base model.
        """
        self._in_use[version_id] += 1
        try:
            if not self.is_ready(version_id):
                await self.prepare(version_id)
            self._touch(version_id)
            yield
        finally:
            self._in_use[version_id] -= 1
            self._make_room()

    async def pin(self, version_id: str) -> None:
        """Load a version and keep it until it is released by name.

        Raises:
            FactoryError: the version is damaged or does not fit the base model.
        """
        await self.prepare(version_id)
        self._pinned.add(version_id)

    async def release(self, version_id: str) -> bool:
        """Unload a version that nothing needs; False where something does."""
        self._pinned.discard(version_id)
        async with self._locks[version_id]:
            if version_id not in self._engine.loaded or self._is_needed(version_id):
                return version_id not in self._engine.loaded
            self._leaving.add(version_id)
            try:
                await self._engine.unload(version_id)
            finally:
                self._leaving.discard(version_id)
            self._used.pop(version_id, None)
            return True

    async def _load(self, version_id: str) -> None:
        async with self._locks[version_id]:
            if version_id not in self._engine.loaded:
                version = await asyncio.to_thread(store.get, self._workspace, version_id)
                await self._engine.load(version)
            self._touch(version_id)

    def _loaded(self, version_id: str, done: "asyncio.Future[None]") -> None:
        del self._loading[version_id]
        if not done.cancelled():
            done.exception()  # seen, even where everybody has left
        self._make_room()

    def _is_needed(self, version_id: str) -> bool:
        is_kept = version_id in self._kept | self._pinned | {BASE_VERSION, *self._loading}
        return is_kept or self._in_use[version_id] > 0

    def _touch(self, version_id: str) -> None:
        self._used.pop(version_id, None)
        self._used[version_id] = None

    def _make_room(self) -> None:
        """Let versions go, the least recently used first, until no more are left than may be."""
        others = self._engine.loaded - {BASE_VERSION}
        idle = [each for each in others - self._leaving if not self._is_needed(each)]
        order = {version_id: place for place, version_id in enumerate(self._used)}
        oldest = sorted(idle, key=lambda version_id: order.get(version_id, -1))
        num_over = len(others - self._leaving) - self._max_versions
        for version_id in oldest[: max(0, num_over)]:
            task = asyncio.ensure_future(self._let_go(version_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _let_go(self, version_id: str) -> None:
        try:
            await self.release(version_id)
        except Exception:
            logger.exception("%s could not be unloaded", version_id)
