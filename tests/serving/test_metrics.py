"""Numbers for Prometheus, read back with its own parser."""

import logging
from collections.abc import Iterable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llama_factory.inference.question import Options, TextPrompt
from llama_factory.serving.metrics import Metrics, Reading
from llama_factory.serving.outcome import Asked, Caller, Outcome


def outcome(index: int = 0, version: str = "v0001") -> Outcome:
    """An answer of 11 tokens whose first came after 2 seconds and whose last after 4."""
    choices = ((TextPrompt("secret question"), Options(max_tokens=1)),) * 3
    asked = Asked("chatcmpl-1", "no such model", Caller("key", "user", "talk"), choices)
    return Outcome(
        asked=asked,
        index=index,
        version_id=version,
        text="secret answer",
        prompt_tokens=100,
        completion_tokens=11,
        reused_tokens=60,
        began=0,
        seconds_waited=1,
        seconds_to_first=2,
        seconds=4,
        finish_reason="stop",
    )


def values(metrics: Metrics) -> dict[str, float]:
    return parsed(metrics.text().decode())


def parsed(text: str) -> dict[str, float]:
    """Every sample by `name{label=value}`."""
    families = text_string_to_metric_families(text)
    found = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name.removeprefix('llama_factory_')}{{{labels}}}"] = sample.value
    return found


def test_tokens_and_times_of_answers_are_counted() -> None:
    metrics = Metrics()
    for index in range(3):
        metrics.finished(outcome(index))
    seen = values(metrics)
    assert seen["answers_total{finish_reason=stop,version=v0001}"] == 3
    assert seen["prompt_tokens_total{version=v0001}"] == 100
    assert seen["reused_prompt_tokens_total{version=v0001}"] == 60
    assert seen["completion_tokens_total{version=v0001}"] == 33
    assert seen["first_token_seconds_sum{version=v0001}"] == 6
    assert seen["queue_seconds_count{version=v0001}"] == 3
    assert seen["token_seconds_sum{version=v0001}"] == pytest.approx(3 * 0.2)
    assert seen["token_seconds_bucket{le=0.1,version=v0001}"] == 0
    assert seen["token_seconds_bucket{le=0.25,version=v0001}"] == 3


def test_requests_are_counted_by_route_and_status_and_version() -> None:
    metrics = Metrics()
    metrics.count_request("/v1/models/{name}", 200, "")
    metrics.count_request("", 404, "")
    metrics.feedback("chatcmpl-1", "down", "v0002")
    seen = values(metrics)
    assert seen["requests_total{route=/v1/models/{name},status=200,version=}"] == 1
    assert seen["requests_total{route=other,status=404,version=}"] == 1
    assert seen["feedback_total{rating=down,version=v0002}"] == 1


def test_nothing_of_a_request_becomes_a_label() -> None:
    metrics = Metrics()
    metrics.finished(outcome())
    text = metrics.text().decode()
    for word in ("secret", "no such model", "chatcmpl", "user", "talk"):
        assert f'"{word}' not in text


def test_readings_are_taken_when_they_are_asked_for() -> None:
    metrics, level = Metrics(), [1.0]

    def read() -> Iterable[Reading]:
        yield Reading("waiting_requests", "Requests that wait", level[0])
        for name in ("production", "candidate"):
            yield Reading("alias", "What an alias names", 1, {"alias": name, "version": "v0001"})

    metrics.sources.append(read)
    assert values(metrics)["waiting_requests{}"] == 1
    level[0] = 5
    assert values(metrics)["waiting_requests{}"] == 5
    assert values(metrics)["alias{alias=candidate,version=v0001}"] == 1


def test_a_source_that_fails_costs_only_its_own_numbers(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    metrics.sources += [lambda: 1 // 0, lambda: [Reading("x", "A number", 7)]]  # type: ignore
    with caplog.at_level(logging.ERROR):
        assert values(metrics)["x{}"] == 7
    assert "cannot be read" in caplog.text


def test_the_memory_of_the_process_is_measured() -> None:
    assert values(Metrics())["process_resident_memory_bytes{}"] > 1_000_000
