"""A-GEM: an update may not raise the loss on old rows, to first order.

Chaudhry et al. 2019, equation 11, https://arxiv.org/abs/1812.00420: with the gradient g of an
update and g_ref of old rows, both over all trained weights as one vector, g becomes

    g - (g . g_ref / |g_ref|^2) g_ref    where g . g_ref < 0.

g is all that the update descends, the terms of other strategies included; g_ref is that of the
answers' log-likelihood, the mean over tokens, without dropout, whatever the objective. It costs a
forward and a backward pass through `rows` rows every update, which several processes share.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import Field

from llama_factory.continual import strategy_rows
from llama_factory.continual.strategies import replay
from llama_factory.core.types import Example, Memory
from llama_factory.training.strategy import STRATEGIES, CallOrder, RunState, Strategy

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.chat.encoding import EncodedRow

NAME = "agem"
SEED = f"{NAME}.seed"
MAX_TOKENS = {"cuda": 16384}
"""Tokens that go through the model at once, by kind of device; 1024 on others."""


@dataclass(eq=False, kw_only=True)
class OldRows(RunState):
    """The old rows that a run is compared with.

    Attributes:
        rows: in the order kept.
        replayed: those of them that `replay` kept, as this run found them.
        codes: of rows that were needed so far, by place; None for those that cannot be taught.
        kernel: made when it is first needed, where the model then is.
    """

    rows: Sequence[Example]
    replayed: "Sequence[Example] | None"
    codes: "dict[int, EncodedRow | None]" = field(default_factory=dict)
    kernel: "nn.Module | None" = None


@STRATEGIES.register(NAME)
class Agem(Strategy):
    """Turns updates that would raise the loss on old rows."""

    turn = CallOrder.LOOKS_ON
    keeps_rows = True
    when_empty = "there are no old rows to compare gradients with"

    rows: int = Field(16, ge=1)
    """Old rows that each update is compared with. Higher is steadier and slower: every update
    costs as much more time as if its batch had this many rows more."""
    buffer_size: int = Field(1000, ge=1)
    """Rows kept from all earlier rounds where no strategy `replay` keeps any."""

    def prepare(self, model: "AdaptedModel", memory: Memory) -> OldRows:
        """Take the old rows: those that `replay` kept, and its own."""
        kept, _ = strategy_rows.intact(memory, replay.NAME)  # replay warns of edited ones
        own, num_edited = strategy_rows.intact(memory, NAME)
        strategy_rows.warn_of_edited(NAME, len(own), num_edited)
        every = {row.key: row for row in (*kept, *own)}
        return OldRows(
            counts={"updates": 0.0, "projections": 0.0},
            rows=tuple(every.values()),
            replayed=memory.rows.get(replay.NAME),
        )

    def adjust_gradients(self, model: "AdaptedModel", state: OldRows) -> None:
        """Project the gradient where it points against that of old rows."""
        if chosen := self.draw(model, state):
            reference = _gradient(model, state, chosen)
            state.counts["updates"] += 1
            state.counts["projections"] += project(model.trainable(), reference)

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: OldRows,
        *,
        seed: int,
    ) -> Memory:
        """Keep old rows where `replay` keeps none, and how often a gradient was turned."""
        numbers, tensors = dict(memory.numbers), dict(memory.tensors)
        kept = {name: old for name, old in memory.rows.items() if name != NAME}
        if kept.get(replay.NAME) is state.replayed:  # replay took no part
            numbers[SEED] = seed = int(numbers.get(SEED, seed))
            old, num_edited = strategy_rows.intact(memory, NAME)
            numbers[f"{NAME}.edited"] = numbers.get(f"{NAME}.edited", 0) + num_edited
            kept[NAME] = replay.choose((*old, *rows), self.buffer_size, seed=seed)
            tensors |= strategy_rows.hashes(NAME, kept[NAME])
        numbers |= {f"{NAME}.{name}": count for name, count in state.counts.items()}
        return Memory(kept, tensors, numbers)

    def draw(self, model: "AdaptedModel", old: OldRows) -> "list[EncodedRow]":
        """Some old rows by the update's seed, the same ones in every process; sorted by length."""
        import torch

        from llama_factory.training.processes import current

        places = range(len(old.rows))
        # The loop seeds every update by the run's seed and its number, so that a resumed run draws
        # what it would have drawn; nothing is taken from that stream here. Dropout needs another
        # seed in each process, the drawing the first one's.
        seed, *_ = current().gather(torch.initial_seed())
        drawn = random.Random(seed).sample(places, min(self.rows, len(places)))
        codes = [_encoded(model, old, place) for place in drawn]
        return sorted((code for code in codes if code is not None), key=lambda code: len(code.ids))


def _encoded(model: "AdaptedModel", old: OldRows, place: int) -> "EncodedRow | None":
    if place not in old.codes:
        codes = strategy_rows.encoded(model, [old.rows[place]])
        old.codes[place] = codes[0] if codes else None
    return old.codes[place]


def _gradient(
    model: "AdaptedModel", old: OldRows, rows: "Sequence[EncodedRow]"
) -> "dict[str, Tensor]":
    """Gradient of the loss on old rows, which are sorted by length, by name of the weight.

    Each process computes some of the rows, and all get the sum. Where weights are sharded all
    compute all of them: the passes of one need the others.
    """
    import torch

    from llama_factory.model.output_head import TokenLogProbs
    from llama_factory.model.sharding import gathered, is_sharded
    from llama_factory.training.processes import Processes, current

    processes = Processes() if is_sharded(model.network) else current()
    own = rows[processes.rank :: processes.count]
    num_trained = sum(row.num_trained for row in rows)
    weights = model.trainable()
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    with strategy_rows.without_dropout(model.network):
        if old.kernel is None:
            with gathered(model.network):
                old.kernel = TokenLogProbs(model.network)
        for loss in _losses(model, old.kernel, own, num_trained):
            gradients = torch.autograd.grad(
                loss, list(weights.values()), allow_unused=True, materialize_grads=True
            )
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient
    reference = dict(zip(sums, processes.add_up(list(sums.values())), strict=True))
    for name, part in model.parts.items():
        reference[name] *= part  # what another strategy holds still cannot be turned
    return reference


def _losses(
    model: "AdaptedModel", kernel: "nn.Module", rows: "Sequence[EncodedRow]", num_trained: int
) -> "Iterator[Tensor]":
    """Parts of the mean loss over `num_trained` tokens, as much at once as fits."""
    from llama_factory.model.padding import cut
    from llama_factory.model.sharding import gathered

    most = MAX_TOKENS.get(model.device.type, 1024)
    cuts = cut([len(row.ids) for row in rows], max_tokens=most, max_rows=len(rows))
    for start, end in cuts:
        with gathered(model.network):  # a backward pass lets go of what was gathered for it
            yield -kernel(*strategy_rows.padded(model, rows[start:end])).sum() / num_trained


def project(weights: "Mapping[str, nn.Parameter]", reference: "Mapping[str, Tensor]") -> bool:
    """Take out of the gradients what points against the reference.

    Args:
        weights: their gradients are changed in place, all as one vector.
        reference: by name of the weight.

    Returns:
        Whether anything pointed against it.
    """
    gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    dot = _dot((gradient, reference[name]) for name, gradient in gradients.items())
    if not dot < 0:
        return False
    factor = dot / _dot((each, each) for each in reference.values())
    for name, weight in weights.items():
        turned = -factor * reference[name]
        weight.grad = turned if weight.grad is None else weight.grad.add_(turned)
    return True


def _dot(pairs: "Iterable[tuple[Tensor, Tensor]]") -> float:
    """Float64 sum of products over all pairs, read from the device once."""
    import torch

    products = [(one.double() * other.double()).sum() for one, other in pairs]
    return float(torch.stack(products).sum()) if products else 0.0
