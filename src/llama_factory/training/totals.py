"""What the micro-batches of an update add up to; it stays on the device until it is read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_factory.training.batch import Batch
from llama_factory.training.objectives import Losses, MicroBatch
from llama_factory.training.processes import Processes


@dataclass(frozen=True)
class Sums:
    """The numbers of an update on the host.

    Attributes:
        by_source: [sources] each source's part of the loss.
        means: the objective's own numbers, averaged over the rows that have them.
        terms: what strategies added to the loss, by name, and what is no sum over micro-batches.
    """

    by_source: Tensor
    means: Mapping[str, float]
    terms: Mapping[str, float]

    @property
    def loss(self) -> float:
        """Of the whole update, without the terms of strategies."""
        return float(self.by_source.sum())

    def by_name(self, batch: Batch) -> dict[str, float]:
        """All numbers as they are logged; the loss of a source is the mean over its rows."""
        parts = zip(batch.sources, self.by_source.tolist(), batch.shares, strict=True)
        losses = {f"loss_{name}": value / share for name, value, share in parts}
        return {"loss": self.loss, **losses, **self.means, **self.terms}


class Totals:
    """Adds up micro-batches without waiting for the device.

    Args:
        num_sources: of the update.
        device: of the model.
    """

    def __init__(self, num_sources: int, device: torch.device) -> None:
        self._by_source = torch.zeros(num_sources, device=device)
        self._numbers: dict[str, list[Tensor]] = {}
        self._terms: dict[str, Tensor] = {}
        self._fixed: dict[str, Tensor] = {}

    def add(self, weighted: Tensor, batch: MicroBatch, losses: Losses) -> None:
        """Count the weighted losses of a micro-batch and the objective's own numbers."""
        sources = batch.row_sources if batch.objective.unit == "row" else batch.sources
        zeros = weighted.new_zeros(len(self._by_source))
        self._by_source += zeros.index_add(0, sources, weighted.detach())
        for name, values in losses.numbers.items():
            self._numbers.setdefault(name, []).append(values.detach())

    def add_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Count what strategies added to the loss of a micro-batch: scalars by name."""
        for name, term in terms.items():
            self._terms[name] = self._terms.get(name, 0.0) + term.detach().double()

    def set(self, name: str, value: Tensor) -> None:
        """Keep a scalar that is of the whole update, and the same in every process."""
        self._fixed[name] = value.detach()

    def read(self, processes: Processes) -> Sums:
        """The sums over all processes, copied to the host at once."""
        lists = self._numbers.values()
        flat = [each for values in lists for each in values]
        by_source, *rest = _on_host(
            [self._by_source, *self._terms.values(), *self._fixed.values(), *flat]
        )
        values = iter(rest)
        terms = {name: float(next(values)) for name in self._terms}
        fixed = {name: float(next(values)) for name in self._fixed}
        totals = {
            name: _total([next(values) for _ in parts]) for name, parts in self._numbers.items()
        }
        return _summed(processes.gather((by_source.tolist(), terms, totals)), fixed)


def _on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one device copied together: as flat ones, each of its own type."""
    together = torch.cat([each.flatten().double() for each in tensors]).cpu()  # exact in float64
    parts = torch.split(together, [each.numel() for each in tensors])
    return [part.to(each.dtype) for part, each in zip(parts, tensors, strict=True)]


def _total(parts: Sequence[Tensor]) -> list[float]:
    """Sum and number of the values that are known: nan where a row has none."""
    total = torch.zeros(2)
    for values in parts:
        known = values[~values.isnan()]
        total = total + torch.stack([known.sum(), known.new_tensor(len(known))])
    return total.tolist()


Counted = tuple[list[float], dict[str, float], dict[str, list[float]]]
"""Of one process: parts of the loss by source, terms, and sum and number of the other values."""


def _summed(processes: Sequence[Counted], fixed: Mapping[str, float]) -> Sums:
    """The numbers of all processes together, and those that are the same in all."""
    names = dict.fromkeys(name for _, terms, _ in processes for name in terms)
    totals: dict[str, Tensor] = {}
    for _, _, counted in processes:
        for name, pair in counted.items():
            totals[name] = totals.get(name, torch.zeros(2)) + torch.tensor(pair)
    return Sums(
        by_source=torch.tensor([parts for parts, _, _ in processes]).sum(0),
        means={name: float(total / number) for name, (total, number) in totals.items() if number},
        terms={n: sum(terms.get(n, 0.0) for _, terms, _ in processes) for n in names} | {**fixed},
    )
