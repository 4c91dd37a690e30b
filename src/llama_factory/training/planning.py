"""Which rows make each update: new ones, and old ones in the shares that strategies ask for."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from llama_factory.training.spreading import Kind, shuffled

NEW = "new"
"""Name of the source of this round's own rows."""
TINY = 1e-6
"""0.1 x 10 must count as 1 row, whatever the rounding."""


@dataclass(frozen=True)
class RowRef:
    """One row of one source."""

    source: str
    index: int


@dataclass(frozen=True)
class Share:
    """How many rows of the updates come from a source beside the new rows.

    Attributes:
        of_rows: share of all rows of the run.
        rises: updates have few of them at the beginning of the run and many at its end, in a
            straight line: from none to twice the share, or as steep as new rows leave room for.
    """

    of_rows: float
    rises: bool = False

    def until(self, part: float, new: float) -> float:
        """Share of all rows of the run that are rows of this source and come in its first part.

        Args:
            part: of the run, from 0 to 1.
            new: share of new rows; no rise takes more than half of them away.
        """
        rise = min(self.of_rows, new / 2) if self.rises else 0.0
        return self.of_rows * part - rise * part * (1 - part)


def plan_steps(
    sizes: Mapping[str, int],
    shares: Mapping[str, Share],
    batch_size: int,
    num_steps: int,
    seed: int,
    kinds: Mapping[str, Sequence[Kind]] | None = None,
) -> list[list[RowRef]]:
    """The rows of every update.

    Rows of extra sources replace new rows, so the number of updates does not grow. Where a share
    of the batch is not a whole number of rows, some updates get one row more than others.

    Args:
        sizes: rows in each source; NEW is one of them.
        shares: of each extra source.
        batch_size: rows in an update.
        num_steps: updates.
        seed: of the order.
        kinds: of the rows of sources whose kinds are spread evenly over the order.
    """
    known = kinds or {}
    streams = {name: _endless(name, n, seed, known.get(name, ())) for name, n in sizes.items()}
    new = 1 - sum(share.of_rows for share in shares.values())
    given = dict.fromkeys(shares, 0)
    plan = []
    for step in range(1, num_steps + 1):
        update: list[RowRef] = []
        for name, share in shares.items():
            so_far = share.until(step / num_steps, new) * batch_size * num_steps
            due = int(so_far + TINY) - given[name]
            taken = [next(streams[name]) for _ in range(min(due, batch_size - len(update)))]
            given[name] += len(taken)
            update += taken
        plan.append([next(streams[NEW]) for _ in range(batch_size - len(update))] + update)
    return plan


def mix(*parts: int | str) -> int:
    """One 63-bit seed out of several values, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _endless(source: str, size: int, seed: int, kinds: Sequence[Kind]) -> Iterator[RowRef]:
    """All rows in a shuffled order, then all again in another one, without end."""
    for epoch in count():
        order = shuffled(size, mix(seed, source, epoch), kinds)
        yield from (RowRef(source, index) for index in order)
