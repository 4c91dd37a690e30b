"""Merging: after a round the previous and the newly trained update are combined into one.

- `interpolate`: (1 - alpha) previous + alpha trained, from the second round on.
- `ema`: the running average decay * previous + (1 - decay) * trained, from the second round on.
- `slao`: Qiao and Mahdavi 2025, https://arxiv.org/abs/2512.23017: the trained A replaces the
  previous one, B moves towards the trained B by 1/sqrt(i) of the way in round i; training begins
  with the last trained B and an orthonormal basis of the last trained A.
- `magmax`: Marczak et al. 2024, https://arxiv.org/abs/2407.06322: of each element of the update
  the larger one in magnitude.
- `ties`: Yadav et al. 2023, https://arxiv.org/abs/2306.01708: trim, elect signs, average.

Updates are those of the base model, s B A of each layer, whole: merging A and B one by one does not
merge the updates.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from llama_factory.core.types import Example, Memory
from llama_factory.training.strategy import STRATEGIES, CallOrder, RunState, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from llama_factory.continual.merging import Rule
    from llama_factory.model.adapted import AdaptedModel

NAME = "merge"
TRAINED, ORIGIN = f"{NAME}.trained.", f"{NAME}.origin."
"""Tensors in memory, by name of the weight: before merging, and before all rounds."""
NUM_ROUNDS = f"{NAME}.rounds"
FROM_TRAINED = ("ema", "slao", "magmax")
"""Methods whose publications train on from what was trained last, not from what was merged."""

FROM_ORIGIN = ("magmax", "ties")
"""Methods that compare how far weights are from where they were before the first round."""
LARGE_ERROR = 0.25
"""Fraction of the updates' norm that may be lost by keeping the rank without a warning."""

logger = logging.getLogger(__name__)

Alpha = Annotated[float, Field(gt=0, le=1)]


@dataclass(eq=False, kw_only=True)
class Before(RunState):
    """What a run began with.

    Attributes:
        previous: all trained weights of the parent version.
        origin: of weights that are no part of a product, before the first round.
        num_rounds: merged so far, the first one counting as merged.
        alpha: weight of the new update in `interpolate`.
    """

    previous: "Mapping[str, Tensor]"
    origin: "Mapping[str, Tensor]"
    num_rounds: int
    alpha: float


@STRATEGIES.register(NAME)
class Merge(Strategy):
    """Combines the previous version with the newly trained one after each round."""

    turn = CallOrder.MERGES
    when_empty = "there is no earlier update to merge with"

    method: Literal["interpolate", "ema", "slao", "magmax", "ties"] = "interpolate"
    """How. `interpolate`: a weighted mean; `ema`: a running average over rounds; `slao`: the new A
    and a mean of B; `magmax`: of each element the larger; `ties`: the largest that agree in sign.
    """
    alphas: tuple[Alpha, ...] = Field((1.0, 0.75, 0.5), min_length=1)
    """For `interpolate`: weight of the new update. Lower forgets less and learns less. The first is
    tried first, and counts as 1 in the first round, which has nothing to forget; where the gate
    refuses a round, the next ones."""
    decay: float = Field(0.5, ge=0, lt=1)
    """For `ema`: weight of the average so far. Higher forgets less and learns less."""
    density: float = Field(0.2, gt=0, le=1)
    """For `ties`: fraction of an update's elements that is kept, the largest ones. Higher keeps
    more of both updates, and more of what they disagree on."""
    start: Literal["merged", "trained"] | None = None
    """Where the next round's training begins: at the merged weights, which are those that answer,
    or at those trained last, kept beside them. Empty: as published (`trained` for ema, slao and
    magmax)."""

    def prepare(self, model: "AdaptedModel", memory: Memory) -> Before:
        """Remember the parent's weights."""
        from llama_factory.continual.low_rank import low_rank_layers, other_names
        from llama_factory.continual.merging import snapshot

        previous = snapshot(model)
        others = other_names(model, low_rank_layers(model))
        known = memory.tensors_under(ORIGIN)
        origin = {name: known.get(name, previous[name]).to(model.device) for name in others}
        num_rounds = int(memory.numbers.get(NUM_ROUNDS, 0))
        if _has_update(model, origin):
            num_rounds = max(1, num_rounds)  # an earlier round that was not merged counts as one
        alpha = self.alphas[0] if num_rounds else 1.0
        return Before(previous=previous, origin=origin, num_rounds=num_rounds, alpha=alpha)

    def begin(self, model: "AdaptedModel", memory: Memory, state: Before) -> None:
        """Move the weights to where the method begins."""
        from llama_factory.continual.low_rank import low_rank_layers, orthonormal
        from llama_factory.continual.merging import copy_into

        if not state.num_rounds:
            return
        if self._starts_from_trained:
            copy_into(model, _trained(model, memory))
        if self.method == "slao":
            weights = model.trainable()
            for layer in low_rank_layers(model).values():
                weights[layer.a].data.copy_(orthonormal(weights[layer.a].detach()))

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: Before,
        *,
        seed: int,
    ) -> Memory:
        """Merge in place, and keep what the next round needs."""
        from llama_factory.continual import merging

        trained = merging.snapshot(model)
        rule = self._rule(state)
        error = merging.combine(model, state.previous, rule, state.origin) if rule else 0.0
        self._warn_of(error)
        kept = _prefixed("origin.", state.origin) if self.method in FROM_ORIGIN else {}
        if self._starts_from_trained:
            kept |= _prefixed("trained.", trained)
        numbers = {
            "rounds": state.num_rounds + 1,
            merging.DIGEST: merging.digest(model),
            "error": error,
        }
        return memory.with_kept(NAME, kept, numbers)

    @classmethod
    def consolidated(cls, memory: Memory) -> Memory:
        """Later updates are merged with none: the one that was released is in the base now.

        `magmax` and `ties` compare how far weights are from the consolidated ones.
        """
        from llama_factory.continual.merging import DIGEST

        kept = memory.without(TRAINED).without(ORIGIN)
        return kept.without(f"{NAME}.{DIGEST}").without(f"{NAME}.norm")

    def gentler(self, state: Before) -> Mapping[str, Before]:
        """Interpolation with the later alphas."""
        alphas = self.alphas[1:] if self.method == "interpolate" else ()
        return {f"alpha {alpha:g}": replace(state, alpha=alpha) for alpha in alphas}

    @property
    def _starts_from_trained(self) -> bool:
        if self.start is None:
            return self.method in FROM_TRAINED
        return self.start == "trained"

    def _rule(self, state: Before) -> "Rule | None":
        """What this round does; None where there is nothing to merge with."""
        from llama_factory.continual import merging

        if self.method == "interpolate":
            return merging.blending(state.alpha) if state.alpha < 1 else None
        if not state.num_rounds:
            return None
        if self.method == "ema":
            return merging.blending(1 - self.decay)
        if self.method == "slao":
            return merging.replacing_a((state.num_rounds + 1) ** -0.5)
        is_ties = self.method == "ties"
        return merging.electing_signs(self.density) if is_ties else merging.choosing_largest()

    def _warn_of(self, error: float) -> None:
        """Warn where the adapter has no room for the result."""
        if error > LARGE_ERROR:
            logger.warning(
                "merge: %.0f %% of the norm of the merged updates was lost, because %s gives "
                "updates of a higher rank than the adapter's. Use method: interpolate, or raise "
                "model.adapter.rank.",
                100 * error,
                self.method,
            )


def _trained(model: "AdaptedModel", memory: Memory) -> "dict[str, Tensor]":
    """The weights that were trained last, if the model is still what they were merged into."""
    from llama_factory.continual.merging import is_unchanged

    trained = memory.tensors_under(TRAINED)
    if not trained:
        return {}
    if is_unchanged(model, memory.numbers, NAME):
        return trained
    logger.warning(
        "merge: the released weights were changed since they were merged, so training begins at "
        "them and not at those trained last (strategies.merge.start)."
    )
    return {}


def _has_update(model: "AdaptedModel", origin: "Mapping[str, Tensor]") -> bool:
    """Whether the model differs from its base."""
    import torch

    from llama_factory.continual.low_rank import low_rank_layers

    weights = model.trainable()
    layers = low_rank_layers(model).values()
    moved = any(bool(weights[each.b].any()) for each in layers if not each.has_siblings)
    return moved or any(not torch.equal(weights[name], start) for name, start in origin.items())


def _prefixed(prefix: str, tensors: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    return {prefix + name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
