"""A candidate that answers a few callers: what was observed, and what follows. Pure; no files.

The unit is the conversation: requests of one user depend on each other. `canary_store.py` keeps the
state and moves releases, `canary_watch.py` feeds it from a server's answers.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import Field

from llama_factory.core.settings import Settings
from llama_factory.evaluation import e_process
from llama_factory.evaluation.e_process import Arm, EProcess, Stream
from llama_factory.evaluation.statistics import Estimate
from llama_factory.versions.releases import Standing

Kind = Literal["errors", "thumbs_down", "latency"]
State = Literal["asked", "running", "promoted", "taken_back", "undecided", "aborted", "moved"]
"""`asked` waits for a server, `moved` ended because somebody moved the release meanwhile."""

FIRST_ANSWERS = 5
"""So many failed answers of a candidate and none that succeeded end it without statistics."""
SECONDS_PER_HOUR = 3600.0


class CanarySettings(Settings):
    """A candidate answers a few callers first, and is released or taken back by what it does."""

    fraction: float = Field(0.1, gt=0, lt=1)
    """Fraction of callers that the candidate answers. Higher decides sooner and exposes more."""
    watch: list[Kind] = Field(["errors", "thumbs_down", "latency"], min_length=1)
    """What is compared, a yes or no a conversation: an answer failed, a user rated one down, the
    first answer took longer than production's median. Fewer kinds decide sooner."""
    alpha: float = Field(0.05, gt=0, lt=1)
    """Chance that a candidate as good as production is taken back, and that one too much worse is
    released. Lower is surer and takes longer."""
    tolerated: float = Field(0.02, gt=0, lt=1)
    """By how much more of its conversations a released candidate may have errors or thumbs down.
    Lower is stricter and takes longer: half of it takes about four times the conversations."""
    tolerated_slower: float = Field(0.1, gt=0, lt=0.5)
    """By how much more than half of its conversations a released candidate may be slower than
    production's median. Lower is stricter and takes longer."""
    max_hours: float = Field(72, gt=0)
    """Hours of both versions answering after which an undecided canary ends; the candidate is held,
    and how many conversations are missing is reported. Higher gives rare traffic more time."""
    patience_minutes: float = Field(5, ge=0)
    """When a conversation is judged, from its first answer on: what fails or is rated later does
    not count. Higher counts more thumbs and decides later."""
    sticky: Literal["caller", "conversation"] = "caller"
    """What stays on one version: `caller` a user, else a key, else a conversation; `conversation`
    for a server whose callers share one key and name no user."""

    def tolerance(self, kind: Kind) -> float:
        """How much worse a released candidate may be."""
        return self.tolerated_slower if kind == "latency" else self.tolerated


@dataclass(frozen=True)
class Evidence:
    """What is known of one kind of outcome.

    Attributes:
        worse: against the candidate being no worse.
        not_worse: against it being worse by more than is tolerated.
    """

    worse: EProcess
    not_worse: EProcess

    def add(self, arm: Arm, bad: bool) -> "Evidence":
        """With one more conversation."""
        return Evidence(self.worse.add(arm, bad), self.not_worse.add(arm, bad))

    @property
    def seen(self) -> tuple[Stream, Stream]:
        """Conversations of production and of the candidate."""
        return self.worse.seen

    def difference(self, alpha: float) -> Estimate:
        """The candidate's rate minus production's, with an interval for people."""
        return e_process.difference(*self.seen, alpha)


@dataclass(frozen=True)
class Judged:
    """One conversation, judged: of each kind that could be, whether it was bad."""

    arm: Arm
    bad: Mapping[Kind, bool]


@dataclass(frozen=True)
class News:
    """What a server has observed since it last reported.

    Attributes:
        standing: the canary that it belongs to.
        judged: conversations, in the order in which they were judged.
        num_answers: answers of the candidate.
        num_failed: those of them that failed by the server's fault.
        seconds: for how long both versions answered.
        cannot_serve: why the candidate cannot be served at all; empty where it can.
    """

    standing: Standing
    judged: tuple[Judged, ...] = ()
    num_answers: int = 0
    num_failed: int = 0
    seconds: float = 0.0
    cannot_serve: str = ""


@dataclass(frozen=True)
class Ending:
    """What follows from what was observed."""

    state: Literal["promoted", "taken_back", "undecided"]
    why: str


@dataclass(frozen=True)
class Canary:
    """The trial of one candidate.

    Attributes:
        standing: what is compared.
        fraction: of callers that the candidate answers.
        state: how it stands.
        why: for its state.
        evidence: by kind.
        num_answers: answers of the candidate.
        num_failed: those of them that failed.
        seconds: for how long both versions answered.
        started: UTC.
        ended: UTC; empty while it runs.
        decided: what is being carried out; None otherwise.
    """

    standing: Standing
    fraction: float
    state: State = "running"
    why: str = ""
    evidence: Mapping[Kind, Evidence] = field(default_factory=dict)
    num_answers: int = 0
    num_failed: int = 0
    seconds: float = 0.0
    started: str = ""
    ended: str = ""
    decided: Ending | None = None

    @staticmethod
    def begun(standing: Standing, fraction: float, settings: CanarySettings, at: str) -> "Canary":
        """A trial that has seen nothing."""
        evidence = {
            kind: Evidence(e_process.worse(), e_process.not_worse_by(settings.tolerance(kind)))
            for kind in settings.watch
        }
        return Canary(standing, fraction, evidence=evidence, started=at)

    @property
    def is_running(self) -> bool:
        """Whether the candidate is to answer callers."""
        return self.state == "running" and self.decided is None

    def after(self, news: News) -> "Canary":
        """With what a server reports; nothing changes where it reports on another trial."""
        if news.standing != self.standing or not self.is_running:
            return self
        return replace(
            self,
            evidence=_with(self.evidence, news.judged),
            num_answers=self.num_answers + news.num_answers,
            num_failed=self.num_failed + news.num_failed,
            seconds=self.seconds + max(0.0, news.seconds),
        )

    def decide(self, settings: CanarySettings, cannot_serve: str = "") -> Ending | None:
        """What follows; None while it goes on."""
        if reason := self._hard_stop(cannot_serve):
            return Ending("taken_back", reason)
        processes = list(self.evidence.values())
        threshold = math.log(1 / settings.alpha)
        if (log_e := e_process.log_mean([each.worse for each in processes])) > threshold:
            return Ending("taken_back", f"worse than production{_sure(log_e)}: {self.counts()}")
        if (log_e := e_process.log_least([each.not_worse for each in processes])) > threshold:
            return Ending("promoted", f"not worse than production{_sure(log_e)}: {self.counts()}")
        if self.seconds >= settings.max_hours * SECONDS_PER_HOUR:
            return Ending("undecided", self._undecided(settings))
        return None

    def outcomes_needed(self, settings: CanarySettings) -> int | None:
        """How many more conversations of the candidate a decision can be expected after.

        Returns:
            None where nothing is known that a number could rest on.
        """
        processes = self.evidence.values()
        until_worse = [each.worse.outcomes_needed(settings.alpha) for each in processes]
        until_not_worse = [each.not_worse.outcomes_needed(settings.alpha) for each in processes]
        ways = [each for each in until_worse if each is not None]
        every = [each for each in until_not_worse if each is not None]
        if len(every) == len(until_not_worse):
            ways.append(max(every))
        return min(ways) if ways else None

    def counts(self) -> str:
        """`errors 3 of 100 (production 10 of 900), ...`."""
        return ", ".join(
            f"{kind} {theirs.bad} of {theirs.count} (production {ours.bad} of {ours.count})"
            for kind, (ours, theirs) in ((kind, each.seen) for kind, each in self.evidence.items())
        )

    def _hard_stop(self, cannot_serve: str) -> str:
        if cannot_serve:
            return f"it cannot be served: {cannot_serve}"
        if self.num_answers >= FIRST_ANSWERS and self.num_failed == self.num_answers:
            return f"all of its first {self.num_answers} answers failed"
        return ""

    def _undecided(self, settings: CanarySettings) -> str:
        needed = self.outcomes_needed(settings)
        more = f"about {needed} more" if needed is not None else "nobody knows how many more"
        return (
            f"undecided after {self.seconds / SECONDS_PER_HOUR:.1f} hours: {more} conversations of "
            f"the candidate are needed. {self.counts()}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "production": self.standing.production,
            "candidate": self.standing.candidate,
            "since": self.standing.since,
            "fraction": self.fraction,
            "state": self.state,
            "why": self.why,
            "evidence": {
                kind: {"worse": each.worse.to_json(), "not_worse": each.not_worse.to_json()}
                for kind, each in self.evidence.items()
            },
            "num_answers": self.num_answers,
            "num_failed": self.num_failed,
            "seconds": round(self.seconds, 3),
            "started": self.started,
            "ended": self.ended,
            "decided": [self.decided.state, self.decided.why] if self.decided else None,
        }

    @staticmethod
    def from_json(values: dict[str, Any]) -> "Canary":
        """What `to_json` wrote."""
        evidence = {
            kind: Evidence(EProcess.from_json(each["worse"]), EProcess.from_json(each["not_worse"]))
            for kind, each in values["evidence"].items()
        }
        same = ("fraction", "state", "why", "num_answers", "num_failed", "seconds", "started")
        return Canary(
            Standing(values["production"], values["candidate"], values["since"]),
            evidence=evidence,
            ended=values["ended"],
            decided=Ending(*values["decided"]) if values["decided"] else None,
            **{name: values[name] for name in same},
        )


def _with(evidence: Mapping[Kind, Evidence], judged: Iterable[Judged]) -> dict[Kind, Evidence]:
    grown = dict(evidence)
    for each in judged:
        for kind, bad in each.bad.items():
            if kind in grown:
                grown[kind] = grown[kind].add(each.arm, bad)
    return grown


def _sure(log_e: float) -> str:
    return f" (e = {math.exp(min(log_e, 50.0)):.3g})"
