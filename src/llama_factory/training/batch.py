"""The rows of an update as tensors, cut into micro-batches without changing the update."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise, starmap
from typing import Self

import torch
from torch import Tensor

from llama_factory.model.chat.encoding import EncodedRow, Sequences
from llama_factory.model.chat.tokens import first_difference
from llama_factory.model.padding import Alike, cut, cut_at_cost, fill, pad
from llama_factory.model.quick.layout import end_to_end, shared_tokens
from llama_factory.model.quick.network import row_lengths
from llama_factory.training.items import Items, RowRef
from llama_factory.training.objectives import MicroBatch, Objective

ALL_TOKENS = "all_tokens"
ALIKE_TOKENS = (32, 64, 128)
"""Rows that begin with so many tokens in common are tried side by side."""


@dataclass(frozen=True)
class Batch:
    """One update: its micro-batches and what the loss of each source counts.

    Attributes:
        micro_batches: together exactly the rows of the update.
        survey: what the objective looks at before it weighs the rows, without a gradient.
        sources: names, in the order that `MicroBatch.sources` counts.
        shares: each source's share of the loss, adding up to 1.
        num_tokens: tokens without padding.
        is_end_to_end: whether its rows are read end to end, so that nothing is padded.
    """

    micro_batches: tuple[MicroBatch, ...]
    survey: tuple[MicroBatch, ...]
    sources: tuple[str, ...]
    shares: tuple[float, ...]
    num_tokens: int
    is_end_to_end: bool = False

    @property
    def num_padded(self) -> int:
        """Tokens with padding."""
        if self.is_end_to_end:
            return self.num_tokens
        return sum(micro.ids.numel() for micro in self.micro_batches)


@dataclass(frozen=True)
class BatchOptions:
    """How an update is cut and weighed.

    Attributes:
        max_tokens: most tokens in a micro-batch, padding included.
        max_rows: most sequences in a micro-batch; None for no limit.
        weighting: whether every `token` of a source counts the same, or every `row`, or
            `all_tokens` of the update whatever their source.
        weights: share of the loss of sources whose share of the rows is another one.
        fewest: micro-batches that there must be at least, where there are rows enough.
        shares_prefixes: whether what the sequences of a micro-batch begin with in common is read
            once, see `SharedPrefix`.
        is_end_to_end: whether the model reads them without padding, see `QuickNetwork`.
    """

    max_tokens: int
    max_rows: int | None = None
    weighting: str = "token"
    weights: Mapping[str, float] = field(default_factory=dict)
    fewest: int = 1
    shares_prefixes: bool = False
    is_end_to_end: bool = False

    def num_read(self, micro: MicroBatch) -> int:
        """How many tokens go through the model for a micro-batch, padding included.

        What is shared counts once only where rows are read end to end.
        """
        if not self.is_end_to_end:
            return micro.ids.numel()
        lengths = row_lengths(micro.targets)
        return len(end_to_end(micro.ids, lengths, shares=self.shares_prefixes).ids)


def make_batch(refs: Sequence[RowRef], rows: Mapping[str, Items], options: BatchOptions) -> Batch:
    """One update's rows as micro-batches of similar length.

    Each token's coefficient is its source's share divided by what the source trains in the whole
    update, so the gradient does not depend on how the rows are cut.
    """
    items: dict[str, list[_Item]] = {}
    for ref in refs:
        of = rows[ref.source]
        item = _Item(of[ref.index], of.reference_of(ref.index), of.objective)
        items.setdefault(ref.source, []).append(item)
    sources, shares = tuple(items), _shares(items, options)
    units: list[Unit] = []
    surveyed: list[Unit] = []
    for number, (share, some) in enumerate(zip(shares, items.values(), strict=True)):
        total = sum(_mass(item, options.weighting) for item in some)
        for item in some:
            scale = share * item.sequences[0].weight / total
            units += _units(item, scale, number, options.weighting)
            surveyed += _surveyed(item, number)
    parts = dict(zip(sources, shares, strict=True))
    micro_batches = tuple(_micro_batches(units, parts, options))
    survey = tuple(_micro_batches(surveyed, parts, options))
    whole = [item for some in items.values() for item in some]
    num_tokens = sum(len(row.ids) for item in whole for row in item.sequences)
    return Batch(micro_batches, survey, sources, shares, num_tokens, options.is_end_to_end)


class Prefetch:
    """Makes the batch of the next update on a thread of its own while this update is computed.

    A batch depends on the plan alone, never on the weights, so it is the same whenever it is made.
    One batch at most is made ahead.

    Args:
        make: the batch of an update, by its number.
        num_steps: updates of the run.
    """

    def __init__(self, make: Callable[[int], Batch], num_steps: int) -> None:
        self._make = make
        self._num_steps = num_steps
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ahead: dict[int, Future[Batch]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, step: int) -> Batch:
        """The batch of update `step`; the next one is begun."""
        batch = self._begin(step).result()
        self._ahead = {step + 1: self._begin(step + 1)} if step + 1 < self._num_steps else {}
        return batch

    def _begin(self, step: int) -> Future[Batch]:
        return self._ahead.get(step) or self._thread.submit(self._make, step)

    def drop(self) -> None:
        """Forget what was made ahead, as batches are cut in another way from now on."""
        for ahead in self._ahead.values():
            ahead.cancel()
        self._ahead = {}


def _shares(items: Mapping[str, Sequence["_Item"]], options: BatchOptions) -> tuple[float, ...]:
    """Each source's share of the loss: as set, else its share of the rows, or of all tokens."""
    by_token = options.weighting == ALL_TOKENS
    counts = {
        name: sum(_num_trained(item.trained) if by_token else 1 for item in some)
        for name, some in items.items()
    }
    fixed = {name: options.weights[name] for name in items if name in options.weights}
    free = sum(count for name, count in counts.items() if name not in fixed)
    left = 1.0 - sum(fixed.values()) if free else 0.0
    shares = [fixed[n] if n in fixed else left * counts[n] / free for n in items]
    return tuple(share / sum(shares) for share in shares)


@dataclass(frozen=True)
class _Item:
    """One row of an update: its sequences, what the reference makes of them, its objective."""

    sequences: Sequences
    reference: tuple[float, ...]
    objective: Objective

    @property
    def trained(self) -> Sequences:
        """The sequences that get a gradient."""
        return self.sequences[: self.objective.num_trained]


@dataclass(frozen=True)
class Unit:
    """Sequences that must share a micro-batch.

    Attributes:
        sequences: of one row, or one of them.
        reference: log-probability of each under the reference.
        source: number of its source.
        coefficient: the row's share of the update's loss.
        per_token: the share of each of its trained tokens, weights of turns aside.
        objective: what is minimised.
    """

    sequences: Sequences
    reference: tuple[float, ...]
    source: int
    coefficient: float
    per_token: float
    objective: Objective

    @property
    def length(self) -> int:
        """Of the longest sequence."""
        return max(len(row.ids) for row in self.sequences)


def _num_trained(rows: Sequences) -> int:
    return sum(row.num_trained for row in rows)


def _mass(item: _Item, weighting: str) -> float:
    """What a row counts within its source."""
    is_by_token = weighting != "row" and item.objective.unit == "token"
    return _num_trained(item.trained) if is_by_token else 1.0


def _units(item: _Item, scale: float, source: int, weighting: str) -> Iterator[Unit]:
    mass = _mass(item, weighting)
    per_token = scale * mass / _num_trained(item.trained)
    pairs = list(zip(item.trained, item.reference, strict=False))
    groups = [pairs] if item.objective.unit == "row" else [[pair] for pair in pairs]
    for group in groups:
        rows, reference = zip(*group, strict=True)
        yield Unit(rows, reference, source, scale * mass, per_token, item.objective)


def _surveyed(item: _Item, source: int) -> Iterator[Unit]:
    """The sequences without a gradient, each by itself, or all together."""
    most = item.objective.num_trained
    if item.objective.surveys_trained:
        yield Unit(item.sequences, item.reference, source, 0.0, 0.0, item.objective)
    elif most is not None:
        for row, reference in zip(item.sequences[most:], item.reference[most:], strict=True):
            yield Unit((row,), (reference,), source, 0.0, 0.0, item.objective)


def _micro_batches(
    units: Sequence[Unit], shares: Mapping[str, float], options: BatchOptions
) -> Iterator[MicroBatch]:
    """Units of one objective, those together that cost the least together."""
    at_most = max(1, len(units) // options.fewest)
    for objective in {id(unit.objective): unit.objective for unit in units}.values():
        some = sorted((u for u in units if u.objective is objective), key=lambda u: u.length)
        width = len(some[0].sequences)
        max_rows = min(at_most, max(1, (options.max_rows or len(some) * width) // width))
        for run in _runs(some, width, max_rows, options):
            yield _collate(run, shares)


def _runs(units: list[Unit], width: int, max_rows: int, options: BatchOptions) -> list[list[Unit]]:
    """Units, sorted by length, cut where that costs the least.

    Where what they begin with in common is read once, those that begin alike are side by side in
    one way or another, whichever is the cheapest.
    """
    if options.is_end_to_end:
        return _filled(units, max_rows, options)
    if not options.shares_prefixes:
        lengths = [unit.length for unit in units]
        cuts = cut(lengths, max_tokens=options.max_tokens // width, max_rows=max_rows)
        return [units[start:end] for start, end in cuts]
    tried = []
    for order in _orders(units):
        cuts, cost = cut_at_cost(
            [unit.length for unit in order],
            max_tokens=options.max_tokens,
            max_rows=max_rows,
            alike=_alike(order, width),
        )
        tried.append((cost, [order[start:end] for start, end in cuts]))
    return min(tried, key=lambda each: each[0])[1]


def _filled(units: list[Unit], max_rows: int, options: BatchOptions) -> list[list[Unit]]:
    """Units cut as they are read end to end; those that begin alike are side by side."""
    shares = options.shares_prefixes
    order = sorted(units, key=lambda unit: unit.sequences[0].ids) if shares else units
    pairs = pairwise(order) if shares else ()
    shared = [shared_tokens(one.sequences[-1].ids, other.sequences[0].ids) for one, other in pairs]
    cuts = fill(
        [_num_read(unit, shares=shares) for unit in order],
        [0, *(shared or [0] * (len(order) - 1))],
        max_tokens=options.max_tokens,
        max_rows=max_rows,
    )
    return [order[start:end] for start, end in cuts]


def _num_read(unit: Unit, *, shares: bool) -> int:
    """Tokens of a unit that is read end to end, alone."""
    rows = [row.ids for row in unit.sequences]
    again = sum(shared_tokens(one, other) for one, other in pairwise(rows)) if shares else 0
    return sum(map(len, rows)) - again


def _orders(units: list[Unit]) -> Iterator[list[Unit]]:
    """By length alone, and by length among those that begin with so many tokens in common."""
    yield units
    for num_tokens in ALIKE_TOKENS:
        heads = [unit.sequences[0].ids[:num_tokens] for unit in units]
        if 1 < len(set(heads)) < len(units):
            order = sorted(range(len(units)), key=lambda i: (heads[i], i))
            yield [units[i] for i in order]


def _alike(units: Sequence[Unit], width: int) -> Alike:
    firsts = [unit.sequences[0].ids for unit in units]
    own = [
        min((first_difference(first, row.ids) for row in unit.sequences[1:]), default=len(first))
        for first, unit in zip(firsts, units, strict=True)
    ]
    return Alike(width, own, [0, *starmap(first_difference, pairwise(firsts))])


def _collate(units: Sequence[Unit], shares: Mapping[str, float]) -> MicroBatch:
    rows = [row for unit in units for row in unit.sequences]
    ids, targets = pad(rows)
    counts = torch.tensor([row.num_trained for row in rows])
    sequence_of = torch.repeat_interleave(torch.arange(len(rows)), counts)
    row_sources = torch.tensor([unit.source for unit in units])
    per_sequence = [(unit.source, unit.per_token) for unit in units for _ in unit.sequences]
    return MicroBatch(
        ids=ids,
        targets=targets,
        coefficients=torch.tensor([each for _, each in per_sequence])[sequence_of] * _weights(rows),
        sources=torch.tensor([source for source, _ in per_sequence])[sequence_of],
        sequence_of=sequence_of,
        row_coefficients=torch.tensor([unit.coefficient for unit in units]),
        row_sources=row_sources,
        reference=torch.tensor([value for unit in units for value in unit.reference]),
        is_desirable=torch.tensor([row.is_desirable for row in rows]),
        source_names=tuple(shares),
        source_shares=tuple(shares.values()),
        objective=units[0].objective,
    )


def _weights(rows: Sequence[EncodedRow]) -> Tensor:
    """[trained tokens] the weight of each one's turn."""
    return torch.cat([torch.tensor(row.weights or [1.0] * row.num_trained) for row in rows])
