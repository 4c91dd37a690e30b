"""Clients that ask an OpenAI-style server all at once and take down when each piece arrived.

Plain HTTP by httpx: what the client itself costs is the same for every server.
"""

import asyncio
import itertools
import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(600.0, connect=10.0)
UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=0)

SAME_PASS = 1e-3
"""Pieces closer than so many seconds come from one pass."""

SUBJECTS = (
    "a lighthouse keeper",
    "two old ships",
    "a river in winter",
    "the first train of the day",
    "a baker who cannot sleep",
    "a library under the sea",
    "three brothers",
    "a clock without hands",
    "a market in the rain",
    "the last apple tree",
    "a dog that guards a bridge",
    "a quiet village",
)
TASKS = (
    "Write a long story about {}.",
    "Describe {} in as much detail as you can, for a reader who has never seen such a thing.",
    "Explain to a child, step by step and with many examples, what one can learn from {}.",
    "Somebody asked me yesterday about {}, and I did not know what to answer. I have a whole "
    "evening for it, so please write me a long essay about {} that begins with what everybody "
    "knows, goes on with what few people know, and ends with a question.",
)


def questions(number: int, first: int = 0) -> list[str]:
    """Short questions of mixed lengths with long answers; no two of all numbers are equal."""
    return [_question(first + i) for i in range(number)]


def _question(number: int) -> str:
    """The number comes first, so that no prompt begins as another does."""
    subject, task = SUBJECTS[number % len(SUBJECTS)], TASKS[(number + number // 12) % len(TASKS)]
    return f"Question {number}. {task.replace('{}', subject)}"


@dataclass
class Timing:
    """One answer and when its parts arrived, in seconds of `time.perf_counter`.

    Attributes:
        model: as the server names what answered.
        sent: when the request left.
        arrivals: of each piece of text.
        ended: when the last byte was there.
        text: the whole answer.
        tokens: of the answer, as the server counts; else the pieces.
        prompt_tokens: of the question.
        cached_tokens: of those, how many the server did not read again; None where it is silent.
    """

    sent: float
    model: str = ""
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    text: str = ""
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None

    @property
    def first(self) -> float:
        """Seconds to the first piece of text."""
        return self.arrivals[0] - self.sent if self.arrivals else self.ended - self.sent


@dataclass(frozen=True)
class Load:
    """How a server is asked.

    Attributes:
        url: of its API, with `/v1`.
        models: names; clients take them in turns.
        max_tokens: of an answer.
        more: fields of a request that this server needs or likes.
    """

    url: str
    models: tuple[str, ...]
    max_tokens: int = 64
    more: Mapping[str, Any] = field(default_factory=dict)

    def body(self, model: str, turns: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """A request, streamed and greedy."""
        return {
            "model": model,
            "messages": list(turns),
            "max_tokens": self.max_tokens,
            "temperature": 0.0,
            "stream": True,
            **self.more,
        }


async def ask(
    client: httpx.AsyncClient, load: Load, model: str, turns: Sequence[Mapping[str, str]]
) -> Timing:
    """Ask once and read the whole stream.

    Raises:
        RuntimeError: the server refuses, fails or gives no text.
    """
    timing, asked = Timing(time.perf_counter()), load.body(model, turns)
    async with client.stream("POST", f"{load.url}/chat/completions", json=asked) as response:
        if response.status_code != httpx.codes.OK:
            raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                _take(timing, json.loads(line[6:]))
    timing.ended = time.perf_counter()
    timing.tokens = timing.tokens or len(timing.arrivals)
    return timing


def _take(timing: Timing, chunk: Mapping[str, Any]) -> None:
    if "error" in chunk:
        raise RuntimeError(f"the stream ends in an error: {chunk['error']}")
    timing.model = chunk.get("model") or timing.model
    for choice in chunk.get("choices") or ():
        if text := (choice.get("delta") or {}).get("content"):
            timing.arrivals.append(time.perf_counter())
            timing.text += text
    if usage := chunk.get("usage"):
        timing.tokens, timing.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
        timing.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


async def _client(load: Load, model: str, asked: Sequence[str]) -> list[Timing]:
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=UNLIMITED) as client:
        return [await ask(client, load, model, [user(text)]) for text in asked]


def user(text: str) -> dict[str, str]:
    """A turn of the user."""
    return {"role": "user", "content": text}


async def _clients(load: Load, asked: Sequence[Sequence[str]]) -> list[Timing]:
    pairs = zip(itertools.cycle(load.models), asked)
    given = await asyncio.gather(*(_client(load, model, texts) for model, texts in pairs))
    return [timing for each in given for timing in each]


def run(load: Load, num_clients: int, each: int, first: int = 0) -> list[Timing]:
    """So many clients at once, each asking so many questions one after the other."""
    texts = questions(num_clients * each, first)
    return asyncio.run(_clients(load, [texts[i::num_clients] for i in range(num_clients)]))


def rate(timings: Sequence[Timing]) -> float:
    """Tokens a second from the first request sent to the last byte read."""
    seconds = max(t.ended for t in timings) - min(t.sent for t in timings)
    return sum(t.tokens for t in timings) / seconds


def gaps(timings: Sequence[Timing]) -> list[float]:
    """Seconds between two passes that gave an answer text, of all answers."""
    pairs = (pair for t in timings for pair in itertools.pairwise(t.arrivals))
    return [b - a for a, b in pairs if b - a >= SAME_PASS]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def chat(load: Load, num_turns: int) -> list[Timing]:
    """One conversation: every answer is put into the next request."""
    return asyncio.run(_chat(load, num_turns))


async def _chat(load: Load, num_turns: int) -> list[Timing]:
    turns, timings = [], []
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=UNLIMITED) as client:
        for text in questions(num_turns, first=5_000):
            turns.append(user(text))
            timings.append(await ask(client, load, load.models[0], turns))
            turns.append({"role": "assistant", "content": timings[-1].text})
    return timings


def beside_others(load: Load, num_others: int, num_asked: int) -> dict[str, float]:
    """Short questions, one after the other, while others answer all the time.

    Returns:
        seconds to the first token (`first_p50`, `first_p99`), the median `pass` (time between two
        tokens of the others) and both in `passes_p50`, `passes_p99`.
    """
    return asyncio.run(_beside_others(load, num_others, num_asked))


async def _beside_others(load: Load, num_others: int, num_asked: int) -> dict[str, float]:
    background: list[Timing] = []
    others = [
        asyncio.create_task(_without_end(load, number * 1000 + 10_000, background))
        for number in range(num_others)
    ]
    short = Load(load.url, load.models, 2, load.more)
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=UNLIMITED) as client:
        while len(background) < num_others:
            await asyncio.sleep(0.05)
            _raise_of(others)
        since = time.perf_counter()
        asked = [
            (await ask(client, short, load.models[0], [user(f"What is {n} + {n}?")])).first
            for n in range(num_asked)
        ]
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    seen = [t for t in background if t.ended >= since]
    whole = statistics.median(gaps(seen or background))
    found = {"first_p50": quantile(asked, 0.5), "first_p99": quantile(asked, 0.99), "pass": whole}
    return found | {f"passes_{p}": found[f"first_{p}"] / whole for p in ("p50", "p99")}


async def _without_end(load: Load, first: int, background: list[Timing]) -> None:
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=UNLIMITED) as client:
        for text in questions(1000, first):
            background.append(await ask(client, load, load.models[0], [user(text)]))


def _raise_of(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        if task.done():
            task.result()
