"""The states of rows behind the frozen layers, as the updates of a run take them."""

import hashlib
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from llama_factory.model.quick.network import row_lengths
from llama_factory.model.quick.trunk import Row, Trunk
from llama_factory.training.batch import Batch
from llama_factory.training.state_store import END, StateStore

MOST_WAITING = 64
"""Rows that wait to be written; whoever computes more waits for the disk."""


class KeptStates:
    """The states of rows behind the lowest layers: in memory, on disk, or computed now.

    Args:
        trunk: computes them.
        store: keeps them.

    Attributes:
        num_read: rows asked for.
        num_computed: rows that were nowhere.
    """

    def __init__(self, trunk: Trunk, store: StateStore) -> None:
        self.num_layers = trunk.num_layers
        self.num_read = 0
        self.num_computed = 0
        self._trunk = trunk
        self._store = store
        self._digest = trunk.digest()
        self._now: dict[str, Tensor | None] = {}
        self._ahead: dict[int, dict[str, Tensor | None]] = {}
        self._writer = ThreadPoolExecutor(1, "states")
        self._waiting: deque[Future[None]] = deque()

    def load(self, step: int, batch: Batch) -> None:
        """Read the states of an update's rows from disk, on the thread that makes its batch."""
        names = {self._name(row) for row in _rows_of(batch)}
        self._ahead[step] = {name: self._store.get(name) for name in names}

    def begin(self, step: int) -> None:
        """Hold the states of an update's rows as long as it takes, and those of no other."""
        self._now = self._ahead.pop(step, {})

    def states(self, rows: Sequence[Row]) -> list[Tensor]:
        """See `RowStates`."""
        self.num_read += len(rows)
        return [self._states(row).to(self._trunk.device) for row in rows]

    def close(self) -> None:
        """Wait until all is written."""
        self._writer.shutdown()

    def _states(self, row: Row) -> Tensor:
        name = self._name(row)
        kept = self._now.get(name)
        if kept is None and name not in self._now:
            kept = self._store.get(name)
        if kept is not None:
            return kept
        self.num_computed += 1
        computed = self._trunk.compute(row)
        if name in self._now:  # not those of held-out rows, of which there may be many
            self._now[name] = computed
        self._write(name, computed)
        return computed

    def _write(self, name: str, states: Tensor) -> None:
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._writer.submit(self._store.put, name, states.cpu()))

    def _name(self, row: Row) -> str:
        tokens = struct.pack(f"<{len(row)}I", *row)
        name = hashlib.blake2b(tokens, digest_size=16).hexdigest()
        return f"{self._digest}/{name[:2]}/{name}{END}"


def _rows_of(batch: Batch) -> Iterator[Row]:
    for micro in (*batch.micro_batches, *batch.survey):
        lengths = row_lengths(micro.targets)
        for row, length in zip(micro.ids.tolist(), lengths, strict=True):
            yield tuple(row[:length])
