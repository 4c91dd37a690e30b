"""What the server measures, in Prometheus' text format.

Labels take values of small fixed sets alone: routes, statuses, versions. Nothing that a request
holds becomes one, else any client could fill the memory of whatever collects them.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from llama_factory.serving.outcome import Asked, Outcome

logger = logging.getLogger(__name__)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PREFIX = "llama_factory"
OTHER = "other"
"""The route of a request that no route answers."""

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


@dataclass(frozen=True)
class Reading:
    """A number that is read when it is asked for.

    Attributes:
        name: without the prefix.
        help: what it is, in a sentence without full stop.
        value: the number.
        labels: from small fixed sets.
    """

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


Source = Callable[[], Iterable[Reading]]


class Metrics:
    """Counts requests and answers; an observer of answers.

    Attributes:
        sources: give further readings, such as how many requests wait.
    """

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        self._registry.register(_Readings(self.sources))
        self._requests = self._counter("requests", "Requests", "route", "status", "version")
        self._answers = self._counter("answers", "Answers", "version", "finish_reason")
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts", "version")
        self._reused = self._counter(
            "reused_prompt_tokens", "Tokens of prompts that were not read again", "version"
        )
        self._generated = self._counter("completion_tokens", "Tokens generated", "version")
        self._feedback = self._counter("feedback", "Ratings of answers", "rating", "version")
        self._waited = self._histogram("queue_seconds", "From a request to its turn")
        self._first = self._histogram("first_token_seconds", "From a request to its first text")
        self._token = self._histogram(
            "token_seconds", "Between two tokens of an answer, on average", TOKEN_SECONDS
        )
        self._whole = self._histogram("answer_seconds", "From a request to the answer's end")

    def count_request(self, route: str, status: int, version_id: str) -> None:
        """One request was answered.

        Args:
            route: the path of the route as it was declared; empty where no route answered.
            status: of the response.
            version_id: the version that answered; empty for none.
        """
        self._requests.labels(route or OTHER, str(status), version_id).inc()

    def feedback(self, completion_id: str, rating: Literal["up", "down"], version_id: str) -> None:
        """See `FeedbackObserver`."""
        self._feedback.labels(rating, version_id).inc()

    def begun(self, asked: Asked, version_id: str) -> None:
        """See `Observer`."""

    def finished(self, outcome: Outcome) -> None:
        """See `Observer`."""
        version = outcome.version_id
        self._answers.labels(version, outcome.finish_reason).inc()
        if outcome.begins_prompt:
            self._prompt.labels(version).inc(outcome.prompt_tokens)
            self._reused.labels(version).inc(outcome.reused_tokens)
        self._generated.labels(version).inc(outcome.completion_tokens)
        if version:
            self._waited.labels(version).observe(outcome.seconds_waited)
        if outcome.seconds_to_first is None:
            return
        self._first.labels(version).observe(outcome.seconds_to_first)
        if outcome.completion_tokens > 1:
            seconds = outcome.seconds - outcome.seconds_to_first
            self._token.labels(version).observe(seconds / (outcome.completion_tokens - 1))
            self._whole.labels(version).observe(outcome.seconds)

    def text(self) -> bytes:
        """Everything, in `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", help_text, labels, registry=self._registry)

    def _histogram(
        self, name: str, help_text: str, buckets: tuple[float, ...] = SECONDS
    ) -> Histogram:
        return Histogram(
            f"{PREFIX}_{name}", help_text, ["version"], buckets=buckets, registry=self._registry
        )


class _Readings(Collector):
    """Asks every source; one that fails costs nobody the others' numbers."""

    def __init__(self, sources: list[Source]) -> None:
        self._sources = sources

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See `Collector`."""
        readings = [reading for source in self._sources for reading in _read(source)]
        by_name = sorted(readings, key=lambda reading: reading.name)
        for name, group in groupby(by_name, key=lambda reading: reading.name):
            first, *others = group
            family = GaugeMetricFamily(
                f"{PREFIX}_{name}", first.help, labels=[*first.labels] or None
            )
            for reading in (first, *others):
                family.add_metric([*reading.labels.values()], reading.value)
            yield family


def _read(source: Source) -> list[Reading]:
    try:
        return list(source())
    except Exception:
        logger.exception("a number of /metrics cannot be read")
        return []
