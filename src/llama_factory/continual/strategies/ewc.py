"""Elastic weight consolidation: what mattered for earlier rounds is held where it was.

Adds lambda/2 sum_i F_i (w_i - w*_i)^2 to the loss, Kirkpatrick et al. 2017, equation 3,
https://arxiv.org/abs/1612.00796, with one running F and the parent's weights as w*: online EWC,
Schwarz et al. 2018, equation 9, https://arxiv.org/abs/1805.06370. We differ in two ways: F is a
decaying *mean* over rounds with mean 1 over the weights, so that lambda means the same in every
round and for every model; and by default w are the elements of the update BA of each layer (form
`delta`), which stay what they are when an adapter is merged or factored anew.
"""

import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from pydantic import ConfigDict, Field

from llama_factory.core.errors import ConfigError
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example, Memory
from llama_factory.training.strategy import STRATEGIES, RunState, Strategy

if TYPE_CHECKING:
    from torch import Tensor

    from llama_factory.continual.fisher import Fisher
    from llama_factory.continual.low_rank import LowRankLayer
    from llama_factory.continual.penalties import UpdatePenalty, WeightPenalty
    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.adapters import Adapter
    from llama_factory.model.chat.encoding import EncodedRow
    from llama_factory.training.objectives import MicroBatch

NAME = "ewc"
USUAL_RATIOS = (0.01, 10.0)
FEWEST_EXAMPLES = 8
COST = 1.5
"""Of measuring on a token, in tokens of training: rows go through the model one by one."""

logger = logging.getLogger(__name__)


EWC_OR_MERGE = kind_of_sentence(
    "settings.ewc_or_merge",
    "ewc with form adapter and merge exclude each other: it holds A and B one by one, and merge"
    " writes their product with another A and B. Use form: delta, which holds the product.",
)


@dataclass(eq=False, kw_only=True)
class Held(RunState):
    """What a run is held by.

    Attributes:
        layers: whose update is held as a whole.
        fisher: importance of weights that the parent version remembers.
        penalties: on leaving the weights that the run began with.
        loss: of this process's rows of the update so far.
        num_tokens: that went through the model for it, padding included.
    """

    layers: "Mapping[str, LowRankLayer]"
    fisher: "Fisher"
    penalties: "Sequence[WeightPenalty | UpdatePenalty]"
    loss: "Tensor | float" = 0.0
    num_tokens: int = 0


@STRATEGIES.register(NAME)
class Ewc(Strategy):
    """Holds weights in proportion to how much they mattered for earlier rounds."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)
    when_empty = "no weight is held"

    lambda_: float = Field(0.1, alias="lambda", ge=0)
    """Strength of the pull on weights of average importance. Higher forgets less, learns less; 0
    turns it off."""
    form: Literal["delta", "adapter"] = "delta"
    """What is held. `delta`: the update BA of each layer; needs plain LoRA, survives merges.
    `adapter`: every trained weight itself; for any adapter, lost when the adapter is merged."""
    fisher: Literal["sampled", "empirical"] = "sampled"
    """Whose answers say what matters: the model's own (the Fisher information), or those of the
    rows (cheaper; small where the model fits its rows well)."""
    examples: int = Field(256, ge=1)
    """Rows of a round that importance is measured on, at most. More is steadier and slower."""
    max_cost: float = Field(0.03, gt=0)
    """Share of a round's training that measuring may take: fewer rows are measured where it would
    take more. Higher is steadier and slower."""
    decay: float = Field(0.95, ge=0, le=1)
    """How much of the importance so far is kept when a round is added. Lower forgets old rounds
    sooner."""

    def conflicts(self, others: Mapping[str, Strategy], adapter: "Adapter | None") -> Iterator[str]:
        """Merging changes A and B, which the form `adapter` holds one by one."""
        if self.form == "adapter" and "merge" in others:
            yield EWC_OR_MERGE()

    def prepare(self, model: "AdaptedModel", memory: Memory) -> Held:
        """Hold the weights where they are, by the importance that the parent version remembers.

        Raises:
            ConfigError: the form does not fit the adapter.
        """
        from llama_factory.continual.fisher import Fisher
        from llama_factory.continual.penalties import penalties

        layers = self._layers(model)
        remembered = _remembered(memory)
        if self.form == "adapter" and _is_outdated(remembered, model, memory):
            remembered = Fisher()
        shapes = _shapes(model, layers)
        is_same_form = bool(remembered.outputs) == (self.form == "delta")
        fisher = remembered.fitting(shapes) if is_same_form else Fisher()
        num_new = sum(name not in fisher.weights and name not in fisher.outputs for name in shapes)
        self._report(remembered, fisher, (num_new, len(shapes)))
        return Held(
            counts={"ratio": 0.0, "updates": 0.0, "tokens": 0.0},
            layers=layers,
            fisher=fisher,
            penalties=penalties(fisher, layers, model.trainable()),
        )

    def extra_loss(
        self, model: "AdaptedModel", batch: "MicroBatch", log_probs: "Tensor", state: Held
    ) -> "Mapping[str, Tensor]":
        """Adds nothing: measures the loss, to show how large the penalty is beside it."""
        if log_probs.shape == batch.coefficients.shape:  # a reward model has none
            state.loss = state.loss - (log_probs.detach() * batch.coefficients).sum()
        state.num_tokens += batch.ids.numel()
        return {}

    def penalty(self, model: "AdaptedModel", state: Held) -> "Mapping[str, Tensor]":
        """The pull, and its size beside the loss."""
        import torch

        from llama_factory.training.processes import current

        own = [float(state.loss), state.num_tokens]
        state.loss, state.num_tokens = 0.0, 0
        loss, num_tokens = map(sum, zip(*current().gather(own), strict=True))
        state.counts["tokens"] += num_tokens
        if not state.penalties or self.lambda_ == 0:
            return {}
        weights = model.trainable()
        penalty = self.lambda_ / 2 * torch.stack([p.value(weights) for p in state.penalties]).sum()
        ratio = float(penalty.detach()) / loss if loss > 0 else 0.0
        if 0 < loss < math.inf and math.isfinite(ratio):
            state.counts["ratio"] += ratio
            state.counts["updates"] += 1
        # A leaf: its backward pass reaches no weight, so it is only shown.
        return {"ewc_penalty": penalty, "ewc_ratio": torch.tensor(ratio, requires_grad=True)}

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: Held,
        *,
        seed: int,
    ) -> Memory:
        """Add the importance of the weights for this round's rows to that of earlier rounds."""
        from llama_factory.continual.fisher import measure
        from llama_factory.continual.merging import DIGEST, digest

        chosen = self._chosen(model, rows, state.counts["tokens"], seed)
        fisher, num_rounds = state.fisher, memory.numbers.get(f"{NAME}.rounds", 0.0)
        if chosen:
            measured = measure(model, chosen, state.layers, kind=self.fisher, seed=seed)
            fisher, num_rounds = self._added(fisher, measured, num_rounds)
        numbers = {
            "rounds": num_rounds,
            "examples": len(chosen),
            "ratio": _mean_ratio(state.counts),
            DIGEST: digest(model),
        }
        return memory.with_kept(NAME, fisher.to_tensors(), numbers)

    @classmethod
    def consolidated(cls, memory: Memory) -> Memory:
        """The importance of updates stays: they are as far from the base's weights as from zero.

        That of A and B one by one goes with them.
        """
        if _remembered(memory).outputs:
            return memory
        return memory.without(f"{NAME}.")

    def _layers(self, model: "AdaptedModel") -> "dict[str, LowRankLayer]":
        """The layers whose update is held as a whole."""
        from llama_factory.continual.low_rank import low_rank_layers

        if self.form == "adapter":
            return {}
        layers = low_rank_layers(model)
        plain = {name: each for name, each in layers.items() if each.is_plain}
        if not plain:
            names = ", ".join(list(model.trainable())[:2])
            raise ConfigError(
                "strategies: ewc with form: delta holds the updates of plain LoRA layers, and this "
                f"model trains none (it trains {names}, ...). Set form: adapter, or "
                "model.adapter to lora without use_dora."
            )
        return plain

    def _report(self, remembered: "Fisher", held: "Fisher", new: tuple[int, int]) -> None:
        """Tell what is not held, and why.

        Args:
            remembered: by the parent version.
            held: what of it holds in this round.
            new: how many layers and weights have no importance yet, of how many.
        """
        if remembered.is_empty:
            logger.info("ewc: the parent version remembers no importance, so nothing is held yet.")
        elif held.is_empty:
            logger.warning(
                "ewc: the parent version measured importance in another form than %s, so it is "
                "forgotten and nothing is held in this round. Set strategies.ewc.form back to keep "
                "it.",
                self.form,
            )
        elif new[0]:
            logger.warning(
                "ewc: %d of %d trained layers or weights are new or of another shape since "
                "importance was measured, so nothing holds them in this round.",
                *new,
            )

    def _chosen(
        self, model: "AdaptedModel", rows: Sequence[Example], num_tokens: float, seed: int
    ) -> "list[EncodedRow]":
        """Rows to measure on, evenly by group: as many as are wanted and affordable."""
        from llama_factory.continual.strategies.replay import choose
        from llama_factory.continual.strategy_rows import encoded

        chosen = encoded(model, choose(rows, self.examples, seed=seed))
        random.Random(seed).shuffle(chosen)  # so that the first ones are of all groups
        affordable = self.max_cost * num_tokens / COST if num_tokens else math.inf
        ends = accumulate(len(row.ids) for row in chosen)
        return chosen[: max(FEWEST_EXAMPLES, sum(end <= affordable for end in ends))]

    def _added(self, old: "Fisher", new: "Fisher", num_rounds: float) -> "tuple[Fisher, float]":
        """The decaying mean with one more round in it, and how many rounds' worth it holds."""
        if old.is_empty:
            return new.normalised(), 1.0
        total = self.decay * num_rounds + 1
        return old.mixed(new.normalised(), 1 / total).normalised(), total


def _remembered(memory: Memory) -> "Fisher":
    """The importance that the parent version keeps, in whatever form."""
    from llama_factory.continual.fisher import Fisher

    return Fisher.from_tensors(memory.tensors_under(f"{NAME}."))


def _shapes(
    model: "AdaptedModel", layers: "Mapping[str, LowRankLayer]"
) -> "dict[str, tuple[int, ...]]":
    """Sizes of everything that is held: full updates of layers, and all other trained weights."""
    from llama_factory.continual.low_rank import other_names

    weights = model.trainable()
    full = {name: (len(weights[e.b]), weights[e.a].shape[1]) for name, e in layers.items()}
    return full | {name: tuple(weights[name].shape) for name in other_names(model, layers)}


def _is_outdated(remembered: "Fisher", model: "AdaptedModel", memory: Memory) -> bool:
    """Warn where A and B, measured one by one, are not what they were then."""
    from llama_factory.continual.merging import is_unchanged

    if remembered.outputs or not remembered.weights or is_unchanged(model, memory.numbers, NAME):
        return False
    logger.warning(
        "ewc: the adapter was changed by a merge or by a round without ewc since the "
        "importance of its weights was measured, so that measure is forgotten and nothing is "
        "held in this round. With form: delta it would have stayed."
    )
    return True


def _mean_ratio(counts: Mapping[str, float]) -> float:
    """The mean size of the penalty beside the loss; warns where it cannot do its work."""
    if not counts["updates"]:
        return 0.0
    ratio = counts["ratio"] / counts["updates"]
    low, high = USUAL_RATIOS
    if not low <= ratio <= high:
        logger.warning(
            "ewc: the penalty was %.2g times the loss on average. %s",
            ratio,
            "It holds next to nothing: raise lambda."
            if ratio < low
            else "It leaves little room to learn: lower lambda.",
        )
    return ratio
