"""Efficiency: how fast a model answers and what memory it takes, at a fixed length."""

import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]
from pydantic import Field

from llama_factory.evaluation.scoring import TaskResult
from llama_factory.evaluation.statistics import Estimate
from llama_factory.evaluation.suites import SUITES, Bench, Suite

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

GIB = 2**30
SECONDS_BETWEEN_LOOKS = 0.005


@SUITES.register("efficiency")
class Efficiency(Suite):
    """Tokens a second, time to the first token, peak memory."""

    prompt_tokens: int = Field(128, ge=1)
    """Length of every prompt. Longer ones take longer until the first token."""
    new_tokens: int = Field(64, ge=2)
    """Length of every answer; none ends early."""
    batch_sizes: list[int] = [1, 8]
    """Rows answered at once."""
    repeats: int = Field(3, ge=1)
    """Runs of each, after one to warm up. The median is reported, with the fastest and slowest."""

    def measure(self, bench: Bench) -> list[TaskResult]:
        """See `Suite.measure`."""
        sizes = self.batch_sizes
        with bench.progress.bar("efficiency", len(sizes)) as bar:
            results = []
            for size in sizes:
                results.append(self._of_size(bench.model, size))
                bar.advance()
        return results

    def _of_size(self, model: "AdaptedModel", size: int) -> TaskResult:
        prompts = [_prompt(model, self.prompt_tokens, number) for number in range(size)]
        _seconds(model, prompts, self.new_tokens)
        with _watching(model) as memory:
            first = [_seconds(model, prompts, 1) for _ in range(self.repeats)]
            whole = [_seconds(model, prompts, self.new_tokens) for _ in range(self.repeats)]
        speeds = [size * self.new_tokens / each for each in whole]
        scores = {"tokens_per_second": _middle(speeds), "first_token_seconds": _middle(first)}
        details = {
            "slowest_and_fastest": f"{min(speeds):.1f} .. {max(speeds):.1f} tokens/s",
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "peak_memory_gib": round(memory.peak / GIB, 3),
            "memory_of": "GPU" if model.device.type == "cuda" else "process",
        }
        return TaskResult(f"{size} at once", size, scores, details)


@dataclass
class _Memory:
    """The highest memory use so far, in bytes."""

    peak: int = 0


def _prompt(model: "AdaptedModel", num_tokens: int, number: int) -> list[int]:
    """Tokens of plain words, different for every number, as shared prefixes are read only once."""
    words = f"{number}. Please describe the weather of week {number} in detail. " * num_tokens
    ids: list[int] = model.tokenizer(words, verbose=False)["input_ids"]
    return ids[:num_tokens]


def _seconds(model: "AdaptedModel", prompts: list[list[int]], new_tokens: int) -> float:
    """Time for answers of exactly `new_tokens` tokens, without an end token."""
    from llama_factory.inference.decoding import decode

    never = frozenset[int]()
    started = time.perf_counter()
    deque(decode(model.network, prompts, never, new_tokens, max_rows=len(prompts)), maxlen=0)
    return time.perf_counter() - started


def _middle(values: list[float]) -> Estimate:
    """The median, without an interval: a few runs on one machine allow none."""
    return Estimate(statistics.median(values), None, None, len(values))


@contextmanager
def _watching(model: "AdaptedModel") -> Iterator[_Memory]:
    """The peak of the GPU's memory, or else of this process's."""
    import torch

    memory = _Memory()
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(model.device)
        yield memory
        memory.peak = torch.cuda.max_memory_allocated(model.device)
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(memory, ended), daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        ended.set()
        watcher.join()


def _watch(memory: _Memory, ended: threading.Event) -> None:
    process = psutil.Process()
    while True:
        memory.peak = max(memory.peak, process.memory_info().rss)
        if ended.wait(SECONDS_BETWEEN_LOOKS):
            return
