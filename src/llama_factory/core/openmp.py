"""How long threads that wait for their team keep their cores: long alone, briefly beside others.

A product is computed by a team of threads. Between two products a thread looks for new work some
thousand times before it sleeps, since waking it takes longer than most products; beside another
program that very looking takes the core from the thread that is waited for.

GNU's OpenMP reads `GOMP_SPINCOUNT` once, and looks a hundred times instead while all teams together
have more threads than there are processors (libgomp: `gomp_managed_threads`, config/linux/wait.h).
So while others need the cores, further teams are held here that do nothing. For the same reason a
team that is needed once ends with its thread: see `in_passing`. Other OpenMP libraries take no
notice of either.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, MutableMapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from llama_factory.core.futures import fulfil

Result = TypeVar("Result")

SPIN_COUNT = "30000"
"""Looks of a waiting thread while nobody else needs the cores: as fast as libgomp's 300,000
(docs/log.md, 2026-12-01)."""
NEEDED = 0.5
"""Others need the cores where they take half a core more than this program leaves."""
LOOK_SECONDS = 0.5
SIZE = 100_000
"""A sum of so many numbers is computed by a team."""


def choose_spin_count(environment: MutableMapping[str, str]) -> bool:
    """Let waiting threads look for long, before the library that computes is imported.

    Returns:
        Whether `sharing_cores` may change it: the user has set nothing else.
    """
    if "OMP_WAIT_POLICY" in environment:
        return False
    return environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT) == SPIN_COUNT


def in_passing(work: Callable[[], Result]) -> Result:
    """Do something on a thread that ends with it, and so does its team."""
    future: Future[Result] = Future()
    # A daemon, so that Ctrl-C ends the program in the middle of the work.
    thread = threading.Thread(target=fulfil, args=(future, work), name="passing", daemon=True)
    thread.start()
    thread.join()
    return future.result()


@contextlib.contextmanager
def sharing_cores() -> Iterator[None]:
    """Look twice a second whether others need the cores; waiting threads sleep soon then."""
    if not hasattr(os, "sched_getaffinity"):  # not Linux, and so not GNU's OpenMP
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(over,), name="cores", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


@dataclass(frozen=True)
class CoreUse:
    """What this program and all together have used of its cores so far, in seconds."""

    own: float
    all: float

    @classmethod
    def now(cls, cores: Collection[int]) -> "CoreUse":
        """Of these cores, by number."""
        import psutil  # type: ignore[import-untyped]

        times = [each for n, each in enumerate(psutil.cpu_times(percpu=True)) if n in cores]
        busy = sum(sum(getattr(each, name, 0.0) for name in BUSY) for each in times)
        own = psutil.Process().cpu_times()
        return cls(own.user + own.system, busy)

    def others_since(self, before: "CoreUse") -> float:
        """Seconds that others have used since then."""
        return (self.all - before.all) - (self.own - before.own)


BUSY = ("user", "nice", "system", "irq", "softirq")
"""Of `psutil.cpu_times`: others are idle or counted twice."""


def others_need_cores(others: float, num_threads: int, num_cores: int) -> bool:
    """Whether a team is in the way of others.

    Args:
        others: cores that they use now.
        num_threads: of the team.
        num_cores: that all share.
    """
    return others > num_cores - num_threads + NEEDED


def _follow(over: threading.Event) -> None:
    teams: list[_Team] = []
    cores = os.sched_getaffinity(0)
    before: CoreUse | None = None
    began = 0.0
    while not over.wait(LOOK_SECONDS):
        torch, now, use = sys.modules.get("torch"), time.monotonic(), CoreUse.now(cores)
        others = use.others_since(before) / (now - began) if before else 0.0
        before, began = use, now
        num_threads = getattr(torch, "get_num_threads", lambda: 1)()
        if num_threads > 1 and others_need_cores(others, num_threads, len(cores)):
            missing = (len(cores) - 1) // (num_threads - 1) - len(teams)
            teams += [_Team(torch) for _ in range(missing)]
        else:
            _end(teams)
    _end(teams)


def _end(teams: "list[_Team]") -> None:
    while teams:
        teams.pop().end()


class _Team:
    """A team of threads that waits for nothing until it is ended."""

    def __init__(self, torch: Any) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(torch,), name="team", daemon=True)
        self._thread.start()

    def _run(self, torch: Any) -> None:
        torch.ones(SIZE).add_(1)
        self._over.wait()

    def end(self) -> None:
        self._over.set()
        self._thread.join()
