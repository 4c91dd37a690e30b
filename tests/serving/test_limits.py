"""What a key may ask: counted on a clock that tests move."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.inference.question import Options, TextPrompt
from llama_factory.serving.access import NOBODY, ApiKey
from llama_factory.serving.limits import Bucket, KeyLimits, RateLimitedError
from llama_factory.serving.outcome import Asked, Caller, Outcome


class HandClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def outcome(key: str, prompt: int, completion: int, *, text: str = "", index: int = 0) -> Outcome:
    choices = ((TextPrompt(""), Options(max_tokens=1)),) * 3
    asked = Asked("chatcmpl-1", "production", Caller(key), choices)
    return Outcome(asked, index, "v0001", text, prompt, completion, 0, 0, 0, None, 0, "stop")


def admitted(limits: KeyLimits, key: ApiKey, num: int = 100) -> int:
    """How many of so many requests at once are let in."""
    for count in range(num):
        try:
            limits.admit(key)
        except RateLimitedError:
            return count
    return num


def test_requests_a_minute(clock: HandClock) -> None:
    limits, key = KeyLimits(clock), ApiKey("web", requests_a_minute=6)
    assert admitted(limits, key) == 6
    clock.seconds += 9.9
    assert admitted(limits, key) == 0
    clock.seconds += 10.1
    assert admitted(limits, key) == 2
    clock.seconds += 3600
    assert admitted(limits, key) == 6


def test_a_refusal_names_when_to_ask_again(clock: HandClock) -> None:
    limits, key = KeyLimits(clock), ApiKey("web", requests_a_minute=6)
    admitted(limits, key)
    with pytest.raises(RateLimitedError, match="may ask 6 times a minute") as caught:
        limits.admit(key)
    assert caught.value.retry_seconds == 10
    clock.seconds += caught.value.retry_seconds
    limits.admit(key)


def test_tokens_a_day_count_when_answers_end(clock: HandClock) -> None:
    limits, key = KeyLimits(clock), ApiKey("web", tokens_a_day=86_400)
    assert admitted(limits, key) == 100
    limits.finished(outcome("web", 80_000, 6_500))
    with pytest.raises(RateLimitedError, match="86400 tokens a day") as caught:
        limits.admit(key)
    assert caught.value.retry_seconds == 101  # a token a second: 100 were overdrawn
    clock.seconds += 101
    limits.admit(key)


def test_a_prompt_of_several_answers_counts_once(clock: HandClock) -> None:
    limits, key = KeyLimits(clock), ApiKey("web", tokens_a_day=1000)
    limits.admit(key)
    for index in range(3):
        limits.finished(outcome("web", 100, 10, index=index))
    assert limits.headers(key)["x-ratelimit-remaining-tokens"] == "870"


def test_leaving_before_the_end_is_not_free(clock: HandClock) -> None:
    limits, key = KeyLimits(clock), ApiKey("web", tokens_a_day=1000)
    limits.admit(key)
    limits.finished(outcome("web", 0, 0, text="x" * 400))
    assert limits.headers(key)["x-ratelimit-remaining-tokens"] == "900"


def test_one_key_does_not_use_up_what_another_may(clock: HandClock) -> None:
    limits = KeyLimits(clock)
    one, other = ApiKey("one", requests_a_minute=1), ApiKey("other", requests_a_minute=1)
    assert admitted(limits, one) == admitted(limits, other) == 1
    limits.finished(outcome("unknown", 1, 1))


def test_headers_are_those_of_openai(clock: HandClock) -> None:
    limits, key = KeyLimits(clock), ApiKey("web", requests_a_minute=60, tokens_a_day=1000)
    limits.admit(key)
    assert limits.headers(key) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "1000",
        "x-ratelimit-reset-tokens": "0.000s",
    }


def test_nobody_and_keys_without_limits_ask_as_often_as_they_like(clock: HandClock) -> None:
    limits = KeyLimits(clock)
    for key in (NOBODY, ApiKey("web")):
        assert admitted(limits, key) == 100
        assert limits.headers(key) == {}


def test_a_changed_limit_holds_at_once(clock: HandClock) -> None:
    limits = KeyLimits(clock)
    assert admitted(limits, ApiKey("web", requests_a_minute=1)) == 1
    assert admitted(limits, ApiKey("web", requests_a_minute=3)) == 3


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 50)), max_size=30))
def test_no_more_flows_out_than_was_there_and_flowed_in(steps: list[tuple[float, float]]) -> None:
    clock = HandClock()
    bucket, taken, began = Bucket(10, 60, clock), 0.0, clock.seconds
    for seconds, amount in steps:
        clock.seconds += seconds
        assert bucket.level <= 10
        if bucket.level >= amount:
            bucket.take(amount)
            taken += amount
    assert taken <= 10 + (clock.seconds - began) * 10 / 60 + 1e-6
