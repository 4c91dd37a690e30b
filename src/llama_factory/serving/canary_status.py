"""How a canary stands, for people and programs."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from llama_factory.evaluation import e_process
from llama_factory.evaluation.statistics import Estimate
from llama_factory.serving import canary_store
from llama_factory.serving.canary import SECONDS_PER_HOUR, Canary, CanarySettings, Evidence, Kind
from llama_factory.serving.shadow_report import ShadowSummary, read_summary
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace

LARGEST_LOG = 300.0
"""e is a number of JSON up to here."""


@dataclass(frozen=True)
class KindStatus:
    """One kind of outcome.

    Attributes:
        kind: what it is.
        production: conversations and the bad ones among them.
        candidate: the same of the candidate.
        difference: of the candidate's rate to production's, with its interval.
        e_worse: evidence that the candidate is worse.
        e_not_worse: evidence that it is not worse by more than is tolerated.
    """

    kind: Kind
    production: tuple[int, int]
    candidate: tuple[int, int]
    difference: Estimate
    e_worse: float
    e_not_worse: float

    @staticmethod
    def of(kind: Kind, evidence: Evidence, alpha: float) -> "KindStatus":
        """What is known of a kind."""
        ours, theirs = evidence.seen
        e_values = (_e(each.log_e) for each in (evidence.worse, evidence.not_worse))
        counts = (ours.count, ours.bad), (theirs.count, theirs.bad)
        return KindStatus(kind, *counts, evidence.difference(alpha), *e_values)


@dataclass(frozen=True)
class CanaryStatus:
    """How a canary stands.

    Attributes:
        state: of the canary; `none` where there was none.
        production: the version that it is compared with.
        candidate: the version that is tried.
        fraction: of callers that the candidate answers.
        why: for the state.
        started: UTC.
        ended: UTC; empty while it runs.
        hours: during which both answered.
        max_hours: after which it ends undecided.
        kinds: what was observed.
        e_worse: evidence of all kinds together that the candidate is worse.
        e_not_worse: evidence of all kinds together that it may be released.
        threshold: what e must exceed.
        outcomes_needed: conversations of the candidate until a decision can be expected; None
            where nobody knows.
        shadow: what the candidate answered beside production.
        earlier: ended canaries before it.
    """

    state: str
    production: str = ""
    candidate: str = ""
    fraction: float = 0.0
    why: str = ""
    started: str = ""
    ended: str = ""
    hours: float = 0.0
    max_hours: float = 0.0
    kinds: tuple[KindStatus, ...] = ()
    e_worse: float = 1.0
    e_not_worse: float = 1.0
    threshold: float = 0.0
    outcomes_needed: int | None = None
    shadow: ShadowSummary | None = None
    earlier: tuple[dict[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_status(workspace: Workspace, settings: CanarySettings) -> CanaryStatus:
    """How the canary of a workspace stands.

    Raises:
        VersionError: a file is damaged.
    """
    known = canary_store.read(workspace)
    if known.asked is not None:
        return _waiting(workspace, *known.asked)
    if known.last is None:
        standing = releases.read(workspace.releases).standing
        candidate = standing.candidate if standing else ""
        return CanaryStatus("none", candidate=candidate)
    return _status(workspace, known.last, settings, known.earlier)


def _waiting(workspace: Workspace, candidate: str, fraction: float) -> CanaryStatus:
    production = releases.read(workspace.releases).production
    why = "it begins once a server runs"
    return CanaryStatus("asked", production, candidate, fraction, why)


def _status(
    workspace: Workspace,
    canary: Canary,
    settings: CanarySettings,
    earlier: tuple[dict[str, Any], ...],
) -> CanaryStatus:
    kinds = tuple(KindStatus.of(*each, settings.alpha) for each in canary.evidence.items())
    evidence = canary.evidence.values()
    return CanaryStatus(
        canary.state,
        canary.standing.production,
        canary.standing.candidate,
        canary.fraction,
        canary.why,
        canary.started,
        canary.ended,
        round(canary.seconds / SECONDS_PER_HOUR, 3),
        settings.max_hours,
        kinds,
        _e(e_process.log_mean([each.worse for each in evidence])),
        _e(e_process.log_least([each.not_worse for each in evidence])),
        1 / settings.alpha,
        None if canary.ended and canary.state != "undecided" else canary.outcomes_needed(settings),
        read_summary(workspace, canary.standing.candidate),
        tuple(_brief(each) for each in earlier),
    )


def _e(log_e: float) -> float:
    return math.exp(min(log_e, LARGEST_LOG))


def _brief(values: dict[str, Any]) -> dict[str, Any]:
    names = ("candidate", "production", "state", "why", "started", "ended")
    return {name: values[name] for name in names}
