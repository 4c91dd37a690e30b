"""Experience replay: a fixed share of every update comes from the rows of earlier rounds.

Chaudhry et al. 2019, https://arxiv.org/abs/1902.10486, with two differences: old rows *replace* new
ones, so the number of updates does not grow, and the buffer is chosen by a hash instead of a random
stream, so it does not depend on the order in which rows arrive.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llama_factory.continual import strategy_rows
from llama_factory.core.types import Example, Memory
from llama_factory.training.strategy import STRATEGIES, ExtraSource, RunState, Strategy

if TYPE_CHECKING:
    from llama_factory.model.adapted import AdaptedModel

NAME = "replay"
SEED = f"{NAME}.seed"
"""Number in memory: the seed that ranks rows, that of the first round that kept any."""
NUM_EDITED = f"{NAME}.edited"
"""Number in memory: kept rows that were dropped so far because they no longer fit their hash."""

Balance = Literal["group", "row"]
Schedule = Literal["even", "rising"]


@STRATEGIES.register(NAME)
class Replay(Strategy):
    """Mixes old rows into every update."""

    reads_weights = False
    keeps_rows = True
    when_empty = "no old rows are mixed in"

    buffer_size: int = Field(1000, ge=1)
    """Rows kept from all earlier rounds together. Higher forgets less and takes more disk; training
    does not get longer."""
    balance: Balance = "group"
    """How the buffer is shared out. `group`: evenly between groups of rows, so that small ones are
    not forgotten; `row`: every row has the same chance, so large groups get more."""
    fraction: float = Field(0.25, gt=0, lt=1)
    """Share of old rows in every update. Higher forgets less, learns less."""
    weight: float | None = Field(None, gt=0, lt=1)
    """Share of old rows in the loss. Empty: the same as `fraction`; above it, few old rows that
    cost little time count for more."""

    schedule: Schedule = "even"
    """When old rows come. `even`: the same share in every update; `rising`: few at the beginning of
    a round, many at its end, where the learning rate is low: new rows are learned first and what
    they disturbed is mended. A round that `max_minutes` or early stopping ends misses the last."""

    def mixed_in(self) -> tuple[float, float]:
        """Old rows take their share of the updates and of the loss."""
        return self.fraction, self.weight or self.fraction

    def sources(self, memory: Memory) -> Sequence[ExtraSource]:
        """The buffer, from the second round on."""
        kept, num_edited = strategy_rows.intact(memory, NAME)
        strategy_rows.warn_of_edited(NAME, len(kept), num_edited)
        is_rising = self.schedule == "rising"
        source = ExtraSource(NAME, kept, self.fraction, self.weight, rises=is_rising)
        return (source,) if kept else ()

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: RunState,
        *,
        seed: int,
    ) -> Memory:
        """Keep the rows of all rounds whose hashes come first, evenly by group."""
        return self.keep(rows, memory, seed=seed)

    def keep(self, rows: Sequence[Example], memory: Memory, *, seed: int) -> Memory:
        """See `Strategy.keep`."""
        old, num_edited = strategy_rows.intact(memory, NAME)
        seed = int(memory.numbers.get(SEED, seed))
        kept = choose((*old, *rows), self.buffer_size, seed=seed, balance=self.balance)
        total = memory.numbers.get(NUM_EDITED, 0) + num_edited
        return replace(
            memory,
            rows={**memory.rows, NAME: kept},
            tensors={**memory.tensors, **strategy_rows.hashes(NAME, kept)},
            numbers={**memory.numbers, SEED: seed, NUM_EDITED: total},
        )


def choose(
    rows: Iterable[Example], size: int, *, seed: int, balance: Balance = "group"
) -> tuple[Example, ...]:
    """At most `size` rows, uniform within a group, whatever the order of arrival.

    A row's rank is a hash of its content and the seed: keeping the lowest ranks of a growing set
    is the same as choosing anew from all rows ever seen, so nothing but the rows must be kept.
    """
    groups: dict[str, dict[str, Example]] = {}
    for row in rows:
        group = groups.setdefault(row.group if balance == "group" else "", {})
        rank = _rank(row, seed)
        group[rank] = min(group.get(rank, row), row, key=_place)
        if len(group) > 2 * size:
            _keep_lowest(group, size)
    quotas = share_out(size, {name: len(group) for name, group in groups.items()})
    chosen = ((group, sorted(groups[group])[: quotas[group]]) for group in sorted(groups))
    return tuple(groups[group][rank] for group, ranks in chosen for rank in ranks)


def share_out(size: int, available: Mapping[str, int]) -> dict[str, int]:
    """Even quotas that add up to `size` at most; what small groups leave goes to larger ones."""
    quotas: dict[str, int] = {}
    remaining = size
    for number, group in enumerate(sorted(available, key=lambda g: (available[g], g))):
        fair = remaining // (len(available) - number)
        quotas[group] = min(available[group], fair)
        remaining -= quotas[group]
    return quotas


def _keep_lowest(group: dict[str, Example], size: int) -> None:
    """Forget what can no longer be chosen, so that a large set is never held whole."""
    for rank in sorted(group)[size:]:
        del group[rank]


def _rank(row: Example, seed: int) -> str:
    return hashlib.blake2b(f"{seed} {row.key}".encode(), digest_size=16).hexdigest()


def _place(row: Example) -> tuple[str, str, int]:
    """Orders rows of the same content."""
    return row.group, row.file, row.line
