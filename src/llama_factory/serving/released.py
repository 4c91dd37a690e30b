"""Which version each name means to a request that arrives now. Follows releases.json."""

import logging
from collections.abc import Awaitable, Callable

from llama_factory.core.errors import FactoryError
from llama_factory.versions import releases, store
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)


class ReleasedVersions:
    """The aliases as this server honours them.

    They differ from releases.json for the moment in which a newly released version is loaded, and
    for as long as the file names a version that cannot be served.
    """

    def __init__(self, workspace: Workspace) -> None:
        """Begin with what is released now.

        Raises:
            VersionError: releases.json is damaged.
        """
        self._workspace = workspace
        self._seen = releases.read(workspace.releases)
        self._complaint = ""
        self.aliases = self._seen.aliases

    @property
    def production(self) -> str:
        """The version that answers where no other is asked for."""
        return self.aliases[releases.PRODUCTION]

    def names(self) -> dict[str, str]:
        """Every name that a request may use, with the version it means."""
        versions = {version_id: version_id for version_id in store.ids(self._workspace)}
        return {self._workspace.folder.name: self.production, **versions, **self.aliases}

    async def refresh(self, prepare: Callable[[str], Awaitable[None]]) -> None:
        """Take over what releases.json says now.

        Args:
            prepare: checks and loads a version; only then do new requests get it. Where it
                fails, the version released before goes on answering.
        """
        try:
            found = releases.read(self._workspace.releases)
            if found == self._seen:
                return
            self._seen = found
            if found.production != self.production:
                await prepare(found.production)
        except FactoryError as error:
            self._complain(f"{self.production} goes on answering: {error}")
            return
        self._complaint = ""
        self.aliases = found.aliases
        logger.info("%s is released", self.production)

    def _complain(self, complaint: str) -> None:
        """Log once, not at every look: a damaged file stays damaged until someone mends it."""
        if complaint != self._complaint:
            logger.error(complaint)
        self._complaint = complaint
