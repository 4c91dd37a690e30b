"""How much each key may ask: requests a minute and tokens a day. Kept in memory, per process."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from llama_factory.inference.question import RequestError
from llama_factory.serving.access import ApiKey
from llama_factory.serving.outcome import Asked, Outcome

MINUTE = 60.0
DAY = 24 * 60 * MINUTE
BYTES_A_TOKEN = 4
"""About what a token of English has."""

Clock = Callable[[], float]


class RateLimitedError(RequestError):
    """A key has asked as much as it may for the moment."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, retry_seconds: int) -> None:
        """Say why, and after how many seconds to ask again."""
        super().__init__(message)
        self.retry_seconds = retry_seconds


@dataclass
class Bucket:
    """An allowance that fills up steadily: nobody waits for a full minute or midnight.

    Attributes:
        limit: what it holds when full, and what flows in during `seconds`.
        seconds: the minute or day.
        clock: seconds that never jump, whatever the time of day is set to.
    """

    limit: int
    seconds: float
    clock: Clock = time.monotonic
    _level: float = field(init=False)
    _filled: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._filled = float(self.limit), self.clock()

    @property
    def level(self) -> float:
        """What is left; below zero where more was taken than there was."""
        seen = self.clock()
        flow = (seen - self._filled) * self.limit / self.seconds
        self._level, self._filled = min(float(self.limit), self._level + flow), seen
        return self._level

    @property
    def remaining(self) -> int:
        """Whole units that are left."""
        return max(0, math.floor(self.level))

    def take(self, amount: float) -> None:
        """Take something out, also what is not there."""
        self._level = self.level - amount

    def seconds_until(self, amount: float) -> float:
        """How long until so much is there."""
        return max(0.0, (amount - self.level) * self.seconds / self.limit)


@dataclass(frozen=True)
class _Allowance:
    key: ApiKey
    requests: Bucket | None
    tokens: Bucket | None


class KeyLimits:
    """What each key has left. It observes answers, whose tokens count when they end."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        """Everybody begins with a full allowance."""
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}

    def admit(self, key: ApiKey) -> None:
        """Count one request.

        Raises:
            RateLimitedError: the key has none left, or no tokens.
        """
        allowance = self._allowance(key)
        if allowance.tokens and (wait := allowance.tokens.seconds_until(1)):
            raise _limited(f"key '{key.name}' has used its {key.tokens_a_day} tokens a day", wait)
        if allowance.requests:
            if wait := allowance.requests.seconds_until(1):
                limit = f"key '{key.name}' may ask {key.requests_a_minute} times a minute"
                raise _limited(limit, wait)
            allowance.requests.take(1)

    def headers(self, key: ApiKey) -> dict[str, str]:
        """OpenAI's `x-ratelimit-*` headers; none for a key without limits."""
        allowance = self._allowance(key)
        headers: dict[str, str] = {}
        for kind, bucket in (("requests", allowance.requests), ("tokens", allowance.tokens)):
            if bucket:
                headers |= {
                    f"x-ratelimit-limit-{kind}": str(bucket.limit),
                    f"x-ratelimit-remaining-{kind}": str(bucket.remaining),
                    f"x-ratelimit-reset-{kind}": f"{bucket.seconds_until(bucket.limit):.3f}s",
                }
        return headers

    def begun(self, asked: Asked, version_id: str) -> None:
        """See `Observer`."""

    def finished(self, outcome: Outcome) -> None:
        """Charge the tokens of an answer; the prompt of several answers is charged once."""
        allowance = self._allowances.get(outcome.asked.caller.key_id)
        if allowance and allowance.tokens:
            prompt = outcome.prompt_tokens if outcome.begins_prompt else 0
            allowance.tokens.take(prompt + _num_generated(outcome))

    def _allowance(self, key: ApiKey) -> _Allowance:
        allowance = self._allowances.get(key.name)
        if allowance is None or allowance.key != key:
            requests = self._bucket(key.requests_a_minute, MINUTE)
            allowance = _Allowance(key, requests, self._bucket(key.tokens_a_day, DAY))
            self._allowances[key.name] = allowance
        return allowance

    def _bucket(self, limit: int | None, seconds: float) -> Bucket | None:
        return Bucket(limit, seconds, self._clock) if limit else None


def _num_generated(outcome: Outcome) -> int:
    """Tokens of an answer; estimated where the client left, else leaving early would be free."""
    return outcome.completion_tokens or math.ceil(len(outcome.text.encode()) / BYTES_A_TOKEN)


def _limited(limit: str, wait: float) -> RateLimitedError:
    seconds = math.ceil(wait)
    return RateLimitedError(f"{limit}. Ask again in {seconds} s.", seconds)
