"""What this machine allows a decoder: a pass reads all weights once and multiplies all rows.

The bandwidth is that of reading memory far larger than any cache, with the threads of the servers;
the rate of products is the best of large ones in float32. No pass is faster than the slower of the
two. Attention, its cache, sampling and HTTP are not counted, though they take time.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import roofline

READ_BYTES = 1 << 29
BEST_OF = 5
FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Limit:
    """What was measured.

    Attributes:
        weights: numbers in the linear layers and the head, all of which a pass reads.
        gigabytes_per_second: read from memory.
        gflops: of products in float32.
    """

    weights: int
    gigabytes_per_second: float
    gflops: float

    def better(self, other: "Limit") -> "Limit":
        """The better of two measurements."""
        return replace(
            self,
            gigabytes_per_second=max(self.gigabytes_per_second, other.gigabytes_per_second),
            gflops=max(self.gflops, other.gflops),
        )

    def seconds(self, rows: int, weight_bytes: float) -> float:
        """The least that a pass over so many rows can take."""
        reading = self.weights * weight_bytes / self.gigabytes_per_second / 1e9
        return max(reading, 2 * self.weights * rows / self.gflops / 1e9)

    def shares(self, run: dict[str, Any], weight_bytes: int | None) -> dict[str, float | None]:
        """How much of the limit a run with one row for each client reaches.

        By its passes alone, and by all its time, the reading of prompts included. The rate of
        products was measured in float32, so in other formats the reading for one client alone is
        compared.

        Args:
            run: of a program.
            weight_bytes: of each weight; None for programs whose share is not asked for.
        """
        rows = run["clients"]
        if weight_bytes is None or (weight_bytes < FLOAT32_BYTES and rows > 1):
            return {"share_of_limit": None, "share_in_all": None}
        least = self.seconds(rows, weight_bytes)
        passes = least / run["pass_seconds"] if run["pass_seconds"] else None
        return {"share_of_limit": passes, "share_in_all": run["tokens_per_second"] * least / rows}

    def to_json(self) -> dict[str, Any]:
        """Plain values for the results."""
        return vars(self) | {"counted": __doc__}


def measure(model: Path, threads: int) -> Limit:
    """Time reading and products with so many threads."""
    import torch
    from transformers import AutoConfig

    torch.set_num_threads(threads)
    config = AutoConfig.from_pretrained(model)
    shapes = roofline.layer_shapes(config)
    weights = sum(rows * columns * number for (rows, columns), number in shapes.items())
    weights += config.hidden_size * config.vocab_size
    side = roofline.ROWS
    rate = 2 * side**3 / roofline.time_of(side, side, side, "float32")
    return Limit(weights, bandwidth() / 1e9, rate / 1e9)


def bandwidth() -> float:
    """Bytes a second that are read from memory, the best of several."""
    import torch

    values = torch.ones(READ_BYTES // 4)
    best = 0.0
    for _ in range(BEST_OF):
        started = time.perf_counter()
        values.sum()
        best = max(best, READ_BYTES / (time.perf_counter() - started))
    return best
