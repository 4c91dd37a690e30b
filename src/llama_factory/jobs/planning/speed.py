"""How long training takes and what it costs, worked out from a table: a range, not a promise."""

from dataclasses import dataclass
from typing import Any

from llama_factory.core.durations import shown_seconds
from llama_factory.jobs.planning.accelerators import Cluster
from llama_factory.jobs.planning.ways import Way

SHARES = (0.2, 0.5)
"""Of an accelerator's products in 16 bits that training reaches. The upper end is what well-tuned
programs publish for models from 7 billion weights on; short rows, small models and slow
connections reach less."""
UNPACKING = 0.7
"""What packed weights leave of it: each is unpacked for every product."""
SHARING = (0.7, 0.95)
"""What is left where weights, or keys and values, are gathered: between machines, within one."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second of all accelerators together, and an hour's price.

    Attributes:
        least: low end.
        most: high end.
        dollars: of all accelerators, an hour; None where no price is known.
    """

    least: float
    most: float
    dollars: float | None

    def to_json(self, num_tokens: int) -> dict[str, Any]:
        """Speed, and time and cost of so many tokens."""
        fast, slow = (num_tokens / each for each in (self.most, self.least))
        price = self.dollars
        return {
            "tokens_per_second": [self.least, self.most],
            "tokens": num_tokens,
            "seconds": [fast, slow],
            "dollars": None if price is None else [each / 3600 * price for each in (fast, slow)],
        }

    def shown(self, num_tokens: int) -> str:
        """As people read it."""
        found = self.to_json(num_tokens)
        fast, slow = map(shown_seconds, found["seconds"])
        sentence = (
            f"{num_tokens / 1e6:g} million tokens: {fast} to {slow} at {self.least:.0f} to "
            f"{self.most:.0f} tokens/s, worked out"
        )
        if found["dollars"] is None:
            return sentence
        low, high = found["dollars"]
        return f"{sentence}; {low:.2f} to {high:.2f} dollars at {self.dollars:.2f} an hour"


def operations(way: Way) -> float:
    """Operations of products that a token takes, forward and backward.

    Each weight once forward and once for the gradient of its input, each trained one once more for
    its own, all once more where activations are computed again; once is a product and a sum.
    Attention: each token sees half of its row on average, by two products of the stream's width.
    """
    shape, n = way.shape, way.shape.num_layers
    passes = 3 if way.load.recomputes else 2
    weights = 2 * passes * shape.multiplied.of(n) + 2 * shape.trained.of(n)
    attention = 2 * 2 * n * shape.width * way.load.num_tokens / 2
    return weights + (passes + 1) * attention


def speed_of(way: Way, cluster: Cluster) -> Speed | None:
    """Tokens a second of a way; None where nothing is known of the accelerator's speed."""
    if cluster.each.teraflops is None:
        return None
    count = way.sharing.count
    whole = cluster.each.teraflops * 1e12 * count / operations(way)
    low, high = (whole * share for share in SHARES)
    if way.adapter == "qlora":
        low, high = low * UNPACKING, high * UNPACKING
    if way.sharing.shards or way.sharing.context > 1:
        low, high = low * SHARING[0], high * SHARING[1]
    dollars = cluster.each.dollars
    return Speed(low, high, None if dollars is None else dollars * count)
