"""Work spread over processes: results come in the order of the work, and only a few wait."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Protocol, TypeVar

from llama_factory.core import plugins

Work = TypeVar("Work")
Result = TypeVar("Result")

WAITING_PER_WORKER = 2
"""Pieces of work handed out ahead for each process: more would only use memory."""


class Workers(Protocol):
    """Whatever carries work out."""

    def map(self, task: Callable[[Work], Result], work: Iterable[Work]) -> Iterator[Result]:
        """`task` of every piece of work, in order."""


class _Here:
    """No other process: for little work, where starting one takes longer."""

    def map(self, task: Callable[[Work], Result], work: Iterable[Work]) -> Iterator[Result]:
        return map(task, work)


class _Processes:
    def __init__(self, executor: ProcessPoolExecutor, count: int) -> None:
        self._executor = executor
        self._most = count * (1 + WAITING_PER_WORKER)

    def map(self, task: Callable[[Work], Result], work: Iterable[Work]) -> Iterator[Result]:
        waiting: deque[Future[Result]] = deque()
        for piece in work:
            waiting.append(self._executor.submit(task, piece))
            if len(waiting) >= self._most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """`count` processes of the same program; 0 takes one a core, 1 none beside this one.

    They are started anew and share nothing with this process, whose libraries may hold threads.
    """
    count = count or os.cpu_count() or 1
    if count == 1:
        yield _Here()
        return
    parts = plugins.imported_files()
    with ProcessPoolExecutor(
        count, get_context("spawn"), initializer=plugins.import_files, initargs=(parts,)
    ) as executor:
        try:
            yield _Processes(executor, count)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
