"""Ways to train a model on accelerators, and the smallest change after which one of them fits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from llama_factory.jobs.planning.accelerators import Cluster
from llama_factory.model.shape import ModelShape
from llama_factory.training.memory import (
    Choice,
    Load,
    MemoryEstimate,
    Sharing,
    memory_needed,
    shown_bytes,
)

MOST_ACCELERATORS = 1024
FEWEST_TOKENS = 128
Parallel = Literal["ddp", "fsdp"]
ShapeOf = Callable[[str], ModelShape]
"""The shape of the model with the adapter of that name."""
Fit = Literal["fits", "tight", "no"]


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        adapter: its name.
        shape: of the model with that adapter.
        load: what an accelerator computes at once.
        sharing: among how many.
        room: bytes of each of them.
    """

    adapter: str
    shape: ModelShape
    load: Load
    sharing: Sharing
    room: int

    @property
    def memory(self) -> MemoryEstimate:
        """What each accelerator needs."""
        return memory_needed(self.shape, self.load, self.sharing)

    @property
    def fit(self) -> Fit:
        """Whether it fits: surely, perhaps, or not."""
        if self.memory.most <= self.room:
            return "fits"
        return "tight" if self.memory.least <= self.room else "no"

    def __str__(self) -> str:
        kept = "recomputed" if self.load.recomputes else "kept"
        low, high = shown_bytes(self.memory.least), shown_bytes(self.memory.most)
        end = {"fits": "fits", "tight": "may just fit", "no": "does NOT fit"}[self.fit]
        return f"{self.sharing}, activations {kept}: {low} to {high} each: {end}"


@dataclass(frozen=True)
class Wish:
    """What is to be trained, as far as a way is open.

    Attributes:
        adapter: its name.
        load: with activations kept.
        recomputes: whether they are computed again; `auto`: where that is needed to fit.
        parallel: the only way to share that is wanted; None for whichever fits first.
        context: how many compute each row together.
        offloads: what is divided lies in main memory.
        cluster: what there is.
    """

    adapter: str
    load: Load
    recomputes: Choice
    parallel: Parallel | None
    cluster: Cluster
    context: int = 1
    offloads: bool = False


@dataclass(frozen=True)
class FittingChange:
    """Something to do otherwise, and the way that is open then.

    Attributes:
        what: as a person says it.
        way: that fits.
    """

    what: str
    way: Way

    def __str__(self) -> str:
        return f"{self.what}: {self.way}"


def ways(wish: Wish, shape_of: ShapeOf) -> list[Way]:
    """The open ways, the usually fastest first."""
    shape, count = shape_of(wish.adapter), wish.cluster.count
    recomputing = [False, True] if wish.recomputes == "auto" else [wish.recomputes]
    loads = [replace(wish.load, recomputes=each) for each in recomputing]
    room = wish.cluster.each.num_bytes
    return [
        Way(wish.adapter, shape, load, sharing, room)
        for load in loads
        for sharing in _sharings(wish, count)
    ]


def _sharings(wish: Wish, count: int) -> Iterator[Sharing]:
    if wish.parallel != "fsdp" or count == 1 or wish.adapter == "qlora":
        yield Sharing(count, context=wish.context)
    # packed weights are not sharded: see `Fsdp.conflicts`
    if wish.parallel != "ddp" and count > 1 and wish.adapter != "qlora":
        yield Sharing(count, shards=True, offloads=wish.offloads, context=wish.context)


def best(found: list[Way]) -> Way:
    """The first way that fits; else the one that needs least."""
    fitting = [way for way in found if way.fit == "fits"]
    return fitting[0] if fitting else min(found, key=lambda way: way.memory.most)


def fewest(wish: Wish, shape_of: ShapeOf, *, least: int = 1) -> Way | None:
    """The way with the fewest accelerators of the kind that fits, from so many on."""
    if wish.adapter == "qlora":
        way = best(ways(replace(wish, cluster=wish.cluster.of(wish.context)), shape_of))
        return way if way.fit == "fits" else None
    groups = [*range(1, 17), *(2**power for power in range(5, 11))]
    counts = (wish.context * each for each in groups)
    for count in (each for each in counts if least <= each <= MOST_ACCELERATORS):
        way = best(ways(replace(wish, cluster=wish.cluster.of(count)), shape_of))
        if way.fit == "fits":
            return way
    return None


def changes(wish: Wish, shape_of: ShapeOf) -> list[FittingChange]:
    """What makes it fit, the smallest change first: each alone, and else several together."""
    found = list(filter(None, _alone(wish, shape_of)))
    return found or list(filter(None, [_together(wish, shape_of)]))


def _alone(wish: Wish, shape_of: ShapeOf) -> Iterator[FittingChange | None]:
    name = wish.cluster.name
    more = fewest(wish, shape_of, least=wish.cluster.count + 1) if wish.parallel != "ddp" else None
    yield FittingChange(f"{more.sharing.count} x {name}", more) if more else None
    if wish.recomputes is False:
        yield _changed("training.gradient_checkpointing: true", _recomputing(wish), shape_of)
    if wish.adapter in ("lora", "full"):
        yield _changed("model.adapter: qlora", replace(wish, adapter="qlora"), shape_of)
    yield _shorter(wish, shape_of)


def _together(wish: Wish, shape_of: ShapeOf) -> FittingChange | None:
    """Recomputation, packed weights and as many tokens as fit then."""
    wish = _recomputing(replace(wish, adapter="qlora"))
    shorter = _shorter(wish, shape_of)
    what = "gradient_checkpointing: true, adapter: qlora"
    return FittingChange(f"{what}, {shorter.what}", shorter.way) if shorter else None


def _recomputing(wish: Wish) -> Wish:
    return replace(wish, recomputes=True)


def _changed(what: str, wish: Wish, shape_of: ShapeOf) -> FittingChange | None:
    way = best(ways(wish, shape_of))
    return FittingChange(what, way) if way.fit == "fits" else None


def _shorter(wish: Wish, shape_of: ShapeOf) -> FittingChange | None:
    """As many tokens at once as fit, in steps of FEWEST_TOKENS."""
    low, high = 0, wish.load.num_tokens // FEWEST_TOKENS

    def way_of(steps: int) -> Way:
        load = replace(wish.load, num_tokens=steps * FEWEST_TOKENS)
        return best(ways(replace(wish, load=load), shape_of))

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if way_of(middle).fit == "fits" else (low, middle)
    if low == 0:
        return None
    return FittingChange(f"{low * FEWEST_TOKENS} tokens at once", way_of(low))
