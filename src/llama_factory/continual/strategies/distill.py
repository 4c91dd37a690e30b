"""Distillation: on old rows the model keeps saying what it said before the round.

The loss gets beta T^2 KL(reference || model) on the trained tokens of old rows (Hinton et al. 2015,
equation 4, https://arxiv.org/abs/1503.02531; Li and Hoiem 2016, https://arxiv.org/abs/1606.09282).
The reference is the previous version for replayed rows and the base model for general ones (the
consolidated one after `consolidate`). It is not a second model: the adapter's weights are exchanged
for those of the parent, or switched off, for one forward pass over these few rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example, Memory
from llama_factory.training.strategy import STRATEGIES, RunState, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from llama_factory.continual.earlier import EarlierModel
    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.adapters import Adapter
    from llama_factory.training.objectives import MicroBatch

NAME = "distill"

Old = Literal["replay", "anchor"]


NOTHING_TO_DISTILL = kind_of_sentence(
    "settings.nothing_to_distill",
    "distill compares answers to the rows of {strategies}, and there is no such strategy in the"
    " list. Add one, or leave distill out.",
)


@dataclass(eq=False, kw_only=True)
class DistillState(RunState):
    """What a run is compared with.

    Attributes:
        earlier: the model before the round.
        means: the update's mean divergence so far, by source, for the log.
    """

    earlier: "EarlierModel"
    means: dict[str, float] = field(default_factory=dict)


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

    def conflicts(self, others: Mapping[str, Strategy], adapter: "Adapter | None") -> Iterator[str]:
        """There must be rows to compare answers on."""
        if not any(name in others for name in self.rows):
            yield NOTHING_TO_DISTILL(strategies=" and ".join(self.rows))

    def prepare(self, model: "AdaptedModel", memory: Memory) -> DistillState:
        """Remember the model as it is before any step, also where a round is gone on with.

        Raises:
            ConfigError: the output head trains.
        """
        from llama_factory.continual.earlier import EarlierModel

        return DistillState(counts={"updates": 0.0}, earlier=EarlierModel(model))

    def extra_loss(
        self, model: "AdaptedModel", batch: "MicroBatch", log_probs: "Tensor", state: DistillState
    ) -> "Mapping[str, Tensor]":
        """How far the model is from the reference, on the old rows of a micro-batch."""
        from llama_factory.model.sharding import is_sharded

        states, terms = state.earlier.states.take(), {}
        is_due = state.counts["updates"] % self.every == 0
        old = self._old_tokens(batch, is_sharded=is_sharded(model.network)) if is_due else ()
        for name, chosen in old:
            divergences = state.earlier.divergences(
                states, batch, chosen, is_base=name == "anchor", temperature=self.temperature
            )
            source = batch.source_names.index(name)
            is_old = batch.sources[chosen] == source
            parts = batch.coefficients[chosen] * is_old / batch.source_shares[source]
            part = float((divergences.detach() * parts).sum())
            state.means[name] = state.means.get(name, 0.0) + part
            mean = (divergences * parts.clamp(max=1 / self.min_tokens)).sum()
            terms[f"distill_{name}"] = self.every * self.beta * self.temperature**2 * mean
        return terms

    def penalty(self, model: "AdaptedModel", state: DistillState) -> "Mapping[str, Tensor]":
        """Adds nothing: shows the mean divergence of the update's old tokens, in nats."""
        import torch

        from llama_factory.training.processes import current

        own, state.means = state.means, {}
        means: dict[str, float] = {}
        for parts in current().gather(own):
            for name, part in parts.items():
                means[name] = means.get(name, 0.0) + part
        # Leaves: their backward pass reaches no weight.
        return {f"kl_{n}": torch.tensor(kl, requires_grad=True) for n, kl in means.items()}

    def after_step(self, model: "AdaptedModel", state: DistillState) -> None:
        """One update more."""
        state.counts["updates"] += 1

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: DistillState,
        *,
        seed: int,
    ) -> Memory:
        """Nothing: the earlier model is a version already."""
        state.earlier.states.close()
        return memory

    def _old_tokens(
        self, batch: "MicroBatch", *, is_sharded: bool
    ) -> "Iterator[tuple[str, Tensor]]":
        """Which trained tokens of a micro-batch belong to each source of old rows it has."""
        for name in self.rows:
            if name in batch.source_names:
                chosen = batch.sources == batch.source_names.index(name)
                if is_sharded and not chosen.any():
                    chosen[0] = True  # a pass is made in any case; the others need it
                if chosen.any():
                    yield name, chosen
