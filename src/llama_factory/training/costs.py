"""What strategies cost: seconds spent in the hooks of each."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from llama_factory.training.strategy import STRATEGIES, Strategy


class Costs:
    """Seconds by strategy, over all starts of a run.

    Rows that a strategy mixes in cost their share of the updates, which is not counted here. On a
    GPU a hook may return before its work is done.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def go_on(self, seconds: Mapping[str, float]) -> None:
        """Add what earlier starts of the run spent."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    @contextmanager
    def of(self, strategy: Strategy) -> Iterator[None]:
        """Count the time until the end of the block."""
        started = time.perf_counter()
        yield
        self.go_on({STRATEGIES.name_of(strategy): time.perf_counter() - started})
