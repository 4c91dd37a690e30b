"""Distillation: on old rows the model keeps saying what it said before the round.

The loss gets beta T^2 KL(reference || model) on the trained tokens of old rows (Hinton et al. 2015,
equation 4, https://arxiv.org/abs/1503.02531; Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).
The reference is the previous version for replayed rows and the base model for general ones (the
consolidated one after `consolidate`). It is not a second model: the adapter's weights are exchanged
for those of the parent, or switched off, for one forward pass over these few rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PrivateAttr

from llama_factory.core.types import Example, Memory
from llama_factory.training.strategy import STRATEGIES, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from llama_factory.continual.earlier import EarlierModel
    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.adapters import Adapter
    from llama_factory.training.objectives import MicroBatch

NAME = "distill"
SUMS = f"{NAME}.sums"
"""Tensor in memory while a round goes on: updates so far."""

Old = Literal["replay", "anchor"]


@STRATEGIES.register(NAME)
class Distill(Strategy):
    """Keeps the model's answers to old rows near to what it answered before the round."""

    beta: float = Field(1.0, gt=0)
    """Weight of the mean difference from the earlier model beside the loss, whatever the share of
    the old rows in it. Higher forgets less, learns less."""
    temperature: float = Field(1.0, gt=0)
    """Softens both distributions. Higher also keeps what the earlier model held unlikely."""
    rows: list[Old] = Field(["replay", "anchor"], min_length=1)
    """Which old rows: `replay` (compared with the previous version) and `anchor` (compared with the
    base model). They come from the strategies of these names."""
    min_tokens: int = Field(1, ge=1)
    """An update with fewer old tokens of a kind than this counts for less, in proportion. Higher
    keeps a single short answer from pulling as hard at its few tokens as at all of a long one."""
    every: int = Field(1, ge=1)
    """Only every n-th update is compared, for n times the weight. Higher is faster, less even."""

    _earlier: "EarlierModel | None" = PrivateAttr(None)
    _means: dict[str, float] = PrivateAttr(default_factory=dict)

    def conflicts(self, others: Mapping[str, Strategy], adapter: "Adapter | None") -> Iterator[str]:
        """There must be rows to compare answers on."""
        if not any(name in others for name in self.rows):
            yield (
                f"distill compares answers to the rows of {' and '.join(self.rows)}, and there is "
                "no such strategy in the list. Add one, or leave distill out."
            )

    def prepare(self, model: "AdaptedModel", memory: Memory) -> None:
        """Remember the model as it is before any step, also where a round is gone on with.

        Raises:
            ConfigError: the output head trains.
        """
        from llama_factory.continual import counters
        from llama_factory.continual.earlier import EarlierModel

        counters.start(memory, SUMS, 1)
        self._forget()
        self._earlier = EarlierModel(model)

    def extra_loss(
        self, model: "AdaptedModel", batch: "MicroBatch", log_probs: "Tensor", memory: Memory
    ) -> "Mapping[str, Tensor]":
        """How far the model is from the reference, on the old rows of a micro-batch."""
        assert self._earlier is not None, "prepare comes first"
        states, terms = self._earlier.states.take(), {}
        is_due = memory.tensors[SUMS][0] % self.every == 0
        for name, chosen in self._old_tokens(batch) if is_due else ():
            apart = self._earlier.divergences(
                states, batch, chosen, is_base=name == "anchor", temperature=self.temperature
            )
            share = batch.source_shares[batch.source_names.index(name)]
            parts = batch.coefficients[chosen] / share
            self._count((apart.detach() * parts).sum(), name)
            mean = (apart * parts.clamp(max=1 / self.min_tokens)).sum()
            terms[f"distill_{name}"] = self.every * self.beta * self.temperature**2 * mean
        return terms

    def penalty(self, model: "AdaptedModel", memory: Memory) -> "Mapping[str, Tensor]":
        """Adds nothing: shows the mean divergence of the update's old tokens, in nats."""
        import torch

        from llama_factory.training.parallel import current

        own, self._means = self._means, {}
        means: dict[str, float] = {}
        for parts in current().gathered(own):
            for name, part in parts.items():
                means[name] = means.get(name, 0.0) + part
        # Leaves: their backward pass reaches no weight.
        return {f"kl_{n}": torch.tensor(kl, requires_grad=True) for n, kl in means.items()}

    def after_step(self, model: "AdaptedModel", memory: Memory) -> None:
        """One update more."""
        memory.tensors[SUMS][0] += 1

    def after_round(
        self, model: "AdaptedModel", rows: Sequence[Example], memory: Memory, *, seed: int
    ) -> Memory:
        """Nothing: the earlier model is a version already."""
        from llama_factory.continual import counters

        self._forget()
        tensors, _ = counters.end(memory, SUMS)
        return replace(memory, tensors=tensors)

    def _forget(self) -> None:
        if self._earlier is not None:
            self._earlier.states.close()
        self._earlier = None
        self._means.clear()

    def _old_tokens(self, batch: "MicroBatch") -> "Iterator[tuple[str, Tensor]]":
        """Which trained tokens of a micro-batch belong to each source of old rows it has."""
        for name in self.rows:
            if name in batch.source_names:
                chosen = batch.sources == batch.source_names.index(name)
                if chosen.any():
                    yield name, chosen

    def _count(self, mean: "Tensor", name: str) -> None:
        """Add a micro-batch's part of the update's mean divergence, for the log."""
        self._means[name] = self._means.get(name, 0.0) + float(mean)
