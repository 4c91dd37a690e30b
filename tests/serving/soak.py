"""Many clients of the `openai` package before a real server process whose versions move meanwhile.

Every version answers each question in words of its own, so an answer shows who gave it. What is
counted: answers, answers that are not those of the version they name, failures that the client's
own retries did not mend, answers cut by the server's death, and times and memory.
"""

import itertools
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import psutil
from openai import OpenAI

from llama_factory import operate
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace

QUESTIONS = ("hello", "What is the refund policy?", "你们的退货政策是什么？", "How many days?")
RETRIES = 40
"""Of the client itself: about five minutes, in which a killed server is up again."""
VERSIONS = ("v0001", "v0002", "v0003", "v0004")
LONG_ANSWER = 64
"""Tokens."""
SETTLE_SECONDS = 0.5
"""After which a long answer has begun."""
START_SECONDS = 600.0
SAMPLE_SECONDS = 0.5


@dataclass(frozen=True)
class Plan:
    """What a soak does.

    Attributes:
        seconds: how long clients ask.
        clients: at once.
        moves: of releases, spread over the time.
        max_tokens: of an answer.
        kills: spread over the time.
        victim: what is killed: the server, or the engine that is a child process of it.
    """

    seconds: float = 60.0
    clients: int = 64
    moves: int = 20
    max_tokens: int = 16
    kills: int = 1
    victim: Literal["server", "engine"] = "server"


@dataclass(frozen=True)
class Given:
    """One answer as its client saw it, with times of `time.monotonic`."""

    question: str
    version: str
    text: str
    tokens: int
    sent: float
    first: float
    ended: float
    is_stream: bool


@dataclass(frozen=True)
class Move:
    """A release that was moved: to what, why, and when."""

    kind: str
    version: str
    time: float


@dataclass
class Soak:
    """What happened."""

    answers: list[Given] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    num_asked: int = 0
    num_cut: int = 0
    moves: list[Move] = field(default_factory=list)
    deaths: list[tuple[float, float]] = field(default_factory=list)
    memory: list[tuple[int, float, float]] = field(default_factory=list)
    """Process, time, MB that it alone holds."""


class ServerProcess:
    """A server on a port that stays the same when it is killed and started anew."""

    def __init__(self, workspace: Workspace, changes: Sequence[str], log: Path) -> None:
        self.port, self._log = free_port(), log
        self.url = f"http://127.0.0.1:{self.port}/v1"
        words = [word for change in changes for word in ("--set", change)]
        self._command = [sys.executable, "-m", "llama_factory", "serve", str(workspace.folder)]
        self._command += ["--port", str(self.port), *words]
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._log.open("ab") as log:
            process = subprocess.Popen(self._command, stdout=log, stderr=log)
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            assert process.poll() is None, self._log.read_text()
            assert time.monotonic() < end, self._log.read_text()
            time.sleep(0.05)
        return process

    def _answers(self) -> bool:
        try:
            return httpx.get(self.url.replace("/v1", "/health"), timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def die(self) -> None:
        """As if power failed; then it is started again."""
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def kill_engine(self) -> None:
        """Kill the children; returns once there is an answer again."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        client = OpenAI(base_url=self.url, api_key="none", max_retries=RETRIES)
        ask(client, QUESTIONS[0], 1, "production", is_stream=False)

    def end(self) -> int:
        """Ask it to stop; gives its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()

    @property
    def memory_mb(self) -> float:
        """What it alone holds, its children's with it."""
        whole = psutil.Process(self.process.pid)
        processes = [whole, *whole.children(recursive=True)]
        return sum(each.memory_full_info().uss for each in processes) / 1e6


def expected_answers(url: str, versions: Sequence[str], plan: Plan) -> dict[tuple[str, str], str]:
    """What each version answers to each question with nobody else around."""
    client = OpenAI(base_url=url, api_key="none", max_retries=RETRIES)
    found = {
        (version, question): ask(client, question, plan.max_tokens, version, is_stream=False).text
        for version in versions
        for question in QUESTIONS
    }
    assert len(set(found.values())) == len(found), "each answer must show who gave it"
    return found


def ask(client: OpenAI, question: str, max_tokens: int, model: str, *, is_stream: bool) -> Given:
    """Ask once, greedily."""
    sent = time.monotonic()
    asked: Any = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
    }
    if not is_stream:
        got = client.chat.completions.create(**asked)
        now = time.monotonic()
        text, tokens = got.choices[0].message.content or "", got.usage.completion_tokens
        return Given(question, got.model, text, tokens, sent, now, now, is_stream)
    text, first, models, tokens = "", 0.0, set(), 0
    usage = {"include_usage": True}
    for chunk in client.chat.completions.create(**asked, stream=True, stream_options=usage):
        models.add(chunk.model)
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            if choice.delta.content:
                first, text = first or time.monotonic(), text + choice.delta.content
    assert tokens, "the stream ended without its token counts"
    now = time.monotonic()
    return Given(question, "+".join(models), text, tokens, sent, first or now, now, is_stream)


def run(workspace: Workspace, server: ServerProcess, versions: Sequence[str], plan: Plan) -> Soak:
    """Ask from all clients while versions move and the server dies."""
    soak, is_over = Soak(), threading.Event()
    with ThreadPoolExecutor(plan.clients + 1) as threads:
        asking = [
            threads.submit(_ask_on, server, soak, plan, number, is_over)
            for number in range(plan.clients)
        ]
        watching = threads.submit(_watch_memory, server, soak, is_over)
        try:
            _operate(workspace, server, versions, plan, soak)
        finally:
            is_over.set()
    for each in (*asking, watching):
        each.result()
    return soak


def rollback_beside_work(workspace: Workspace, server: ServerProcess) -> float:
    """Seconds from a rollback to the first text of the version that is back.

    Meanwhile the version before writes a long answer, and another one is being loaded.
    """
    client = OpenAI(base_url=server.url, api_key="none", max_retries=RETRIES)
    now = releases.read(workspace.releases)
    back, other = now.production, next(v for v in VERSIONS if v != now.production)
    absent = [version for version in VERSIONS if version not in (back, other)]
    releases.promote(workspace.releases, other, "promoted")
    _first_of(client, other)
    with ThreadPoolExecutor(2) as threads:
        threads.submit(ask, client, QUESTIONS[1], LONG_ANSWER, "production", is_stream=True)
        time.sleep(SETTLE_SECONDS)
        threads.submit(ask, client, QUESTIONS[0], 1, random.choice(absent), is_stream=False)
        began = time.monotonic()
        releases.promote(workspace.releases, back, "rolled back")
        return _first_of(client, back).first - began


def _first_of(client: OpenAI, version: str) -> Given:
    """The first answer after a version was taken over by the server."""
    health = str(client.base_url).replace("/v1/", "/health")
    while httpx.get(health).json()["version"] != version:
        time.sleep(0.01)
    found = ask(client, QUESTIONS[0], 2, "production", is_stream=True)
    assert found.version == version
    return found


def _ask_on(
    server: ServerProcess, soak: Soak, plan: Plan, number: int, is_over: threading.Event
) -> None:
    client = OpenAI(base_url=server.url, api_key="none", max_retries=RETRIES, timeout=120)
    for turn in itertools.count(number):
        if is_over.is_set():
            return
        question, is_stream = QUESTIONS[turn % len(QUESTIONS)], turn % 3 != 0
        soak.num_asked += 1  # all under the interpreter's lock, and read when all have ended
        sent = time.monotonic()
        try:
            given = ask(client, question, plan.max_tokens, "production", is_stream=is_stream)
            soak.answers.append(given)
        except (openai.APIError, httpx.HTTPError, AssertionError) as error:
            soak.failures.append(f"{sent:.3f} {time.monotonic():.3f} {error!r}")


def _watch_memory(server: ServerProcess, soak: Soak, is_over: threading.Event) -> None:
    while not is_over.wait(SAMPLE_SECONDS):
        try:
            sample = (server.process.pid, time.monotonic(), server.memory_mb)
        except psutil.Error:
            continue
        if sample[2]:  # a process that was just killed holds nothing
            soak.memory.append(sample)


def _operate(
    workspace: Workspace,
    server: ServerProcess,
    versions: Sequence[str],
    plan: Plan,
    soak: Soak,
) -> None:
    """Moves at even intervals, and deaths between them."""
    begun, moves = time.monotonic(), moves_without_end(workspace, versions)
    interval = plan.seconds / (plan.moves + 1)
    deaths = {round((each + 1) * plan.moves / (plan.kills + 1)) for each in range(plan.kills)}
    for number in range(1, plan.moves + 1):
        time.sleep(max(0.0, begun + number * interval - time.monotonic()))
        kind, version, move = next(moves)
        soak.moves.append(Move(kind, version, time.monotonic()))
        move()
        if number in deaths:
            died = time.monotonic()
            server.die() if plan.victim == "server" else server.kill_engine()
            soak.deaths.append((died, time.monotonic()))
    time.sleep(max(0.0, begun + plan.seconds - time.monotonic()))


Moves = Iterator[tuple[str, str, Callable[[], object]]]


def moves_without_end(workspace: Workspace, versions: Sequence[str]) -> Moves:
    """Promotions, rollbacks and canaries in an order that is the same every time."""
    draws = random.Random(0)
    while True:
        now = releases.read(workspace.releases)
        others = [version for version in versions if version != now.production]
        version = draws.choice(others)
        yield "promotion", version, _promotion(workspace, version, "promoted")
        before = releases.read(workspace.releases).aliases["previous"]
        yield "rollback", before, _promotion(workspace, before, "rolled back")
        candidate = draws.choice([v for v in versions if v != before])
        yield "canary", candidate, _canary(workspace, candidate)
        yield "promotion", candidate, _promotion(workspace, candidate, "promoted in its canary")


def _promotion(workspace: Workspace, version: str, why: str) -> Callable[[], object]:
    return lambda: releases.promote(workspace.releases, version, why)


def _canary(workspace: Workspace, version: str) -> Callable[[], object]:
    """A quarter of callers; the next promotion ends it."""
    start = getattr(operate, "start_canary", None)
    if start is None:
        return lambda: releases.hold(workspace.releases, version, "a candidate")
    return lambda: start(workspace.folder, version, 0.25)


def free_port() -> int:
    """A port that nobody listens on, to be listened on again after a restart."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def served(workspace: Workspace, changes: Sequence[str], log: Path) -> Iterator[ServerProcess]:
    """A server process that is ended whatever happens."""
    server = ServerProcess(workspace, changes, log)
    try:
        yield server
    finally:
        server.process.kill()
