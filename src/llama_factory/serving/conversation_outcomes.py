"""From answers to judged conversations: each counts once, when its time is over.

Every conversation is judged at the same age whatever became of it. Were a thumb down counted when
it comes and its absence later, the first minutes of a canary would hold nothing but thumbs down.
"""

import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from llama_factory.evaluation.e_process import Arm
from llama_factory.serving.canary import Judged, Kind

FEWEST_TO_COMPARE = 20
"""First answers of production before which nothing is called slow."""
NUM_RECENT = 500
"""First answers of production that make up the median."""
MAX_JUDGED = 100_000
"""Judged conversations remembered, so that their later turns do not count again."""


@dataclass
class _Open:
    """A conversation that is not judged yet."""

    arm: Arm
    began: float
    is_slow: bool | None
    has_failed: bool = False
    is_rated_down: bool = False
    completions: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class AnswerOutcome:
    """What one answer means to the conversation that it belongs to.

    Attributes:
        conversation: id.
        completion: id that a rating names.
        arm: which version gave it.
        seconds: that it took; None where it failed.
        begins: whether the request held no earlier answer: a conversation begins.
    """

    conversation: str
    completion: str
    arm: Arm
    seconds: float | None
    begins: bool = True


class ConversationOutcomes:
    """The conversations of one canary. Times are seconds of a clock that never goes back."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._judged: OrderedDict[str, None] = OrderedDict()
        self._completions: dict[str, str] = {}
        self._recent: deque[float] = deque(maxlen=NUM_RECENT)

    def answered(self, answer: AnswerOutcome, now: float) -> None:
        """An answer ended."""
        key = answer.conversation
        if key not in self._open:
            if key in self._judged and not answer.begins:
                return
            self._open[key] = _Open(answer.arm, now, self._is_slow(answer))
        each = self._open[key]
        if each.arm != answer.arm:
            return  # it was moved: neither version can be blamed for it
        each.has_failed = each.has_failed or answer.seconds is None
        each.completions.append(answer.completion)
        self._completions[answer.completion] = key

    def rated(self, completion: str, *, is_down: bool) -> None:
        """A user rated an answer; a later rating of a conversation replaces an earlier one."""
        if each := self._open.get(self._completions.get(completion, "")):
            each.is_rated_down = is_down

    def due(self, now: float) -> tuple[Judged, ...]:
        """The conversations whose time is over, in the order in which they began."""
        judged = []
        while self._open and next(iter(self._open.values())).began + self._patience <= now:
            key, each = self._open.popitem(last=False)
            self._judged[key] = None
            for completion in each.completions:
                self._completions.pop(completion, None)
            bad: dict[Kind, bool] = {"errors": each.has_failed, "thumbs_down": each.is_rated_down}
            if each.is_slow is not None:
                bad["latency"] = each.is_slow
            judged.append(Judged(each.arm, bad))
        while len(self._judged) > MAX_JUDGED:
            self._judged.popitem(last=False)
        return tuple(judged)

    def _is_slow(self, answer: AnswerOutcome) -> bool | None:
        """Slower than the median of production's earlier first answers; None where unknown."""
        if answer.seconds is None:
            return None
        enough = len(self._recent) >= FEWEST_TO_COMPARE
        is_slow = answer.seconds > statistics.median(self._recent) if enough else None
        if answer.arm == "production":
            self._recent.append(answer.seconds)
        return is_slow
