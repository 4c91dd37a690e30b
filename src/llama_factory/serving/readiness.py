"""Whether a server can answer now, and what it measures of itself. Nothing is computed for it."""

import asyncio
import logging
from collections.abc import Iterable
from datetime import datetime

from llama_factory.core.errors import FactoryError
from llama_factory.core.types import BASE_VERSION
from llama_factory.rounds.gate import read_verdict
from llama_factory.serving.keys import KeyRing
from llama_factory.serving.metrics import Reading
from llama_factory.serving.service import Gateway
from llama_factory.versions import store
from llama_factory.versions.version import ModelVersion
from llama_factory.versions.workspace import Workspace

logger = logging.getLogger(__name__)

STALLED_SECONDS = 120.0
"""How long nothing may come of any answer in progress before the engine counts as hanging."""


class GatewayReadings:
    """What `/ready` and `/metrics` say of a gateway beside what it counts."""

    def __init__(self, gateway: Gateway, keys: KeyRing) -> None:
        self._gateway = gateway
        self._keys = keys
        self._round: tuple[Reading, ...] = ()
        self._round_of = ""

    def __call__(self) -> Iterable[Reading]:
        """Read what is in memory."""
        gateway, released = self._gateway, self._gateway.released
        yield Reading("running_requests", "Requests being answered", gateway.admission.num_running)
        yield Reading("waiting_requests", "Requests that wait", gateway.admission.num_waiting)
        yield Reading("loaded_versions", "Versions in the engine", len(gateway.engine.loaded))
        yield Reading("active_keys", "Keys that get in", len(self._keys.active))
        is_ready = not self.reasons_not_ready()
        yield Reading("ready", "1 where answers can be given", is_ready)
        is_served = released.released == released.production
        yield Reading("release_served", "1 where the released version answers", is_served)
        for alias, version_id in sorted(released.aliases.items()):
            labels = {"alias": alias, "version": version_id}
            yield Reading("alias_info", "The version that an alias means", 1, labels)
        yield from self._round

    def reasons_not_ready(self) -> list[str]:
        """Why nothing can be answered; empty where it can.

        A released version that cannot be served is no reason: the one before answers, and taking
        the server away would leave nobody. `/health` and `/metrics` show it.
        """
        gateway, reasons = self._gateway, list[str]()
        if why := gateway.engine.unavailable:
            reasons.append(f"the engine is not there: {why}")
        elif not gateway.versions.is_ready(gateway.released.production):
            reasons.append(f"{gateway.released.production} is not loaded")
        if (seconds := gateway.quiet_seconds) > STALLED_SECONDS:
            reasons.append(f"nothing has come of the answers in progress for {seconds:.0f} s")
        if self._keys.problem:
            reasons.append("the file of keys is damaged; the log says how")
        return reasons

    async def look(self) -> None:
        """Read from the disk what the last round came to; once, as a version never changes."""
        self._round_of, self._round = await asyncio.to_thread(
            _last_round, self._gateway.workspace, self._round_of, self._round
        )


def _last_round(
    workspace: Workspace, known: str, readings: tuple[Reading, ...]
) -> tuple[str, tuple[Reading, ...]]:
    try:
        newest = store.ids(workspace)[-1:]
        if not newest or newest[0] in (known, BASE_VERSION):
            return known, readings
        return newest[0], tuple(_round_readings(store.get(workspace, newest[0], verify=False)))
    except (FactoryError, OSError, ValueError) as error:
        logger.warning("/metrics cannot show the last round: %s", error)
        return known, ()


def _round_readings(version: ModelVersion) -> Iterable[Reading]:
    verdict = read_verdict(version.report)
    labels = {"version": version.id, "verdict": verdict.word if verdict else "none"}
    yield Reading("last_round_info", "The version that the last round made", 1, labels)
    seconds = datetime.fromisoformat(version.created).timestamp()
    yield Reading("last_round_timestamp_seconds", "When the last round ended", seconds)
