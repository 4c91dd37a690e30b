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
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Literal, cast

from pydantic import ConfigDict, Field, PrivateAttr

from llama_factory.core.errors import ConfigError
from llama_factory.core.types import Example, Memory
from llama_factory.training.strategy import STRATEGIES, Strategy

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
SUMS = f"{NAME}.sums"
WEIGHTS = f"{NAME}.weights."
"""Tensors in memory, by name of the weight: its importance."""
RATIO, UPDATES, TOKENS = range(3)
"""What is added up while a round goes on, in the order of the memory's tensor SUMS."""
USUAL_RATIOS = (0.01, 10.0)
FEWEST_EXAMPLES = 8
COST = 1.5
"""What a token costs beside one of training: rows go through the model one by one."""

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class _Hold:
    """What one run is held by, made anew from the memory at each start.

    Attributes:
        anchors: sums of squares, at the weights that the run began with.
        loss: of this process's rows of the update so far.
        num_tokens: that went through the model for it, padding included.
    """

    anchors: "Sequence[WeightPenalty | UpdatePenalty]" = ()
    loss: "Tensor | float" = 0.0
    num_tokens: int = 0

    def __eq__(self, other: object) -> bool:
        # what a run is held by is no part of what a strategy is set to
        return isinstance(other, _Hold)


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

    _hold: _Hold = PrivateAttr(default_factory=_Hold)

    def conflicts(self, others: Mapping[str, Strategy], adapter: "Adapter | None") -> Iterator[str]:
        """Merging changes A and B, which the form `adapter` holds one by one."""
        if self.form == "adapter" and "merge" in others:
            yield (
                "ewc with form adapter and merge exclude each other: it holds A and B one by one, "
                "and merge writes their product with another A and B. Use form: delta, which holds "
                "the product."
            )

    def prepare(self, model: "AdaptedModel", memory: Memory) -> None:
        """Hold the weights where they are, by the importance that the parent version remembers.

        Raises:
            ConfigError: the form does not fit the adapter.
        """
        from llama_factory.continual import counters
        from llama_factory.continual.penalties import penalties

        counters.start(memory, SUMS, 3)
        if self.form == "adapter":
            _forget_if_changed(model, memory)
        fisher = self._remembered(model, memory)
        self._tell(fisher, model, memory)
        self._hold = _Hold(penalties(fisher, self._layers(model), model.trainable()))

    def extra_loss(
        self, model: "AdaptedModel", batch: "MicroBatch", log_probs: "Tensor", memory: Memory
    ) -> "Mapping[str, Tensor]":
        """Adds nothing: looks on, to say how large the penalty is beside the loss."""
        if log_probs.shape == batch.coefficients.shape:  # a reward model has none
            self._hold.loss = self._hold.loss - (log_probs.detach() * batch.coefficients).sum()
        self._hold.num_tokens += batch.ids.numel()
        return {}

    def penalty(self, model: "AdaptedModel", memory: Memory) -> "Mapping[str, Tensor]":
        """The pull; its size beside the loss is told with it."""
        import torch

        from llama_factory.training.parallel import current

        own = [float(self._hold.loss), self._hold.num_tokens]
        self._hold.loss, self._hold.num_tokens = 0.0, 0
        loss, num_tokens = map(sum, zip(*current().gathered(own), strict=True))
        memory.tensors[SUMS][TOKENS] += num_tokens
        if not self._hold.anchors or self.lambda_ == 0:
            return {}
        weights = model.trainable()
        distances = [anchor.value(weights) for anchor in self._hold.anchors]
        penalty = self.lambda_ / 2 * torch.stack(distances).sum()
        ratio = float(penalty.detach()) / loss if loss > 0 else 0.0
        if 0 < loss < math.inf and math.isfinite(ratio):
            memory.tensors[SUMS][RATIO] += ratio
            memory.tensors[SUMS][UPDATES] += 1
        # A leaf: its backward pass reaches no weight, so that it is only told.
        return {"ewc_penalty": penalty, "ewc_ratio": torch.tensor(ratio, requires_grad=True)}

    def after_round(
        self, model: "AdaptedModel", rows: Sequence[Example], memory: Memory, *, seed: int
    ) -> Memory:
        """Add the importance of the weights for this round's rows to that of earlier rounds."""
        from llama_factory.continual import counters
        from llama_factory.continual.merging import DIGEST, digest

        tensors, sums = counters.end(memory, SUMS)
        sums = sums or [0.0] * 3
        chosen = self._chosen(model, rows, sums[TOKENS], seed)
        fisher = self._remembered(model, memory)
        num_rounds = memory.numbers.get(f"{NAME}.rounds", 0.0)
        if chosen:
            fisher, num_rounds = self._added(fisher, self._measure(model, chosen, seed), num_rounds)
        kept = {f"{NAME}.{name}": tensor for name, tensor in fisher.to_tensors().items()}
        numbers = {
            "rounds": num_rounds,
            "examples": len(chosen),
            "ratio": _told_ratio(sums),
        }
        others = {name: each for name, each in tensors.items() if not name.startswith(f"{NAME}.")}
        told = {f"{NAME}.{name}": float(number) for name, number in numbers.items()}
        told[NAME + DIGEST] = digest(model)
        return replace(memory, tensors={**others, **kept}, numbers={**memory.numbers, **told})

    @classmethod
    def consolidated(cls, memory: Memory) -> Memory:
        """The importance of updates stays: they are as far from the base's weights as from zero.

        That of A and B one by one goes with them.
        """
        if _measured(memory).outputs:
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

    def _remembered(self, model: "AdaptedModel", memory: Memory) -> "Fisher":
        """What the parent measured in this form, of weights that still have their shape."""
        from llama_factory.continual.fisher import Fisher

        fisher = _measured(memory)
        if bool(fisher.outputs) != (self.form == "delta"):
            return Fisher()
        return fisher.fitting(_shapes(model, self._layers(model)))

    def _tell(self, fisher: "Fisher", model: "AdaptedModel", memory: Memory) -> None:
        """Say what is not held, and why."""
        shapes = _shapes(model, self._layers(model))
        num_new = sum(name not in fisher.weights and name not in fisher.outputs for name in shapes)
        if _measured(memory).is_empty:
            logger.info("ewc: the parent version remembers no importance, so nothing is held yet.")
        elif fisher.is_empty:
            logger.warning(
                "ewc: the parent version measured importance in another form than %s, so it is "
                "forgotten and nothing is held in this round. Set strategies.ewc.form back to keep "
                "it.",
                self.form,
            )
        elif num_new:
            logger.warning(
                "ewc: %d of %d trained layers or weights are new or of another shape since "
                "importance was measured, so nothing holds them in this round.",
                num_new,
                len(shapes),
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

    def _measure(self, model: "AdaptedModel", rows: "Sequence[EncodedRow]", seed: int) -> "Fisher":
        from llama_factory.continual import fisher
        from llama_factory.continual.low_rank import other_names

        layers, weights = self._layers(model), model.trainable()
        others = other_names(model, layers)
        # the gradient of B reaches a layer's outputs, which are looked at on the way
        wanted = {name: weights[name] for name in [*others, *(each.b for each in layers.values())]}
        modules = {name: each.module for name, each in layers.items()}
        measured = fisher.measure(
            model, rows, layers=modules, weights=wanted, kind=self.fisher, seed=seed
        )
        return replace(measured, weights={name: measured.weights[name] for name in others})

    def _added(self, old: "Fisher", new: "Fisher", num_rounds: float) -> "tuple[Fisher, float]":
        """The decaying mean with one more round in it, and how many rounds' worth it holds."""
        if old.is_empty:
            return new.normalised(), 1.0
        total = self.decay * num_rounds + 1
        return old.mixed(new.normalised(), 1 / total).normalised(), total


def _measured(memory: Memory) -> "Fisher":
    """What the parent measured, in whatever form."""
    from llama_factory.continual.fisher import Fisher

    own = {k: t for k, t in memory.tensors.items() if k.startswith(f"{NAME}.")}
    return Fisher.from_tensors({k.removeprefix(f"{NAME}."): t for k, t in own.items()})


def _shapes(
    model: "AdaptedModel", layers: "Mapping[str, LowRankLayer]"
) -> "dict[str, tuple[int, ...]]":
    """Sizes of everything that is held: full updates of layers, and all other trained weights."""
    from llama_factory.continual.low_rank import other_names

    weights = model.trainable()
    full = {name: (len(weights[e.b]), weights[e.a].shape[1]) for name, e in layers.items()}
    return full | {name: tuple(weights[name].shape) for name in other_names(model, layers)}


def _forget_if_changed(model: "AdaptedModel", memory: Memory) -> None:
    """Drop what was measured of A and B one by one where these are not what they were then."""
    from llama_factory.continual.merging import is_unchanged

    tensors = cast("MutableMapping[str, Tensor]", memory.tensors)
    measured = [name for name in tensors if name.startswith(WEIGHTS)]
    if _measured(memory).outputs or not measured:
        return
    if not is_unchanged(model, memory.numbers, NAME):
        for name in measured:
            del tensors[name]
        logger.warning(
            "ewc: the adapter was changed by a merge or by a round without ewc since the "
            "importance of its weights was measured, so that measure is forgotten and nothing is "
            "held in this round. With form: delta it would have stayed."
        )


def _told_ratio(sums: Sequence[float]) -> float:
    """The mean size of the penalty beside the loss; people are told where it cannot do its work."""
    if not sums[UPDATES]:
        return 0.0
    ratio = sums[RATIO] / sums[UPDATES]
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
