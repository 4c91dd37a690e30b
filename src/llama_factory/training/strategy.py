"""The hooks through which a strategy protects old knowledge. A strategy never owns the loop."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from llama_factory.core.settings import Registry, Settings
from llama_factory.core.types import Example, Memory

if TYPE_CHECKING:
    from torch import Tensor

    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.adapters import Adapter
    from llama_factory.training.objectives import MicroBatch


@dataclass(frozen=True)
class ExtraSource:
    """Rows that are mixed into every update beside the new ones.

    Attributes:
        name: shown as `loss_<name>`.
        rows: taken in a shuffled order, again from the start when used up.
        share: of the rows of all updates; new rows get the rest.
        weight: share of the update's loss; None takes the share of the rows.
        max_trained: trained tokens after which each row is cut off; None: it is not.
        rises: few of them at the beginning of a round, many at its end.
    """

    name: str
    rows: tuple[Example, ...]
    share: float
    weight: float | None = None
    max_trained: int | None = None
    rises: bool = False


@dataclass(frozen=True)
class Share:
    """How many rows of the updates come from a source beside the new rows.

    Attributes:
        of_rows: share of all rows of the run.
        rises: updates have few of them at the beginning of the run and many at its end, in a
            straight line: from none to twice the share, or as steep as new rows leave room for.
    """

    of_rows: float
    rises: bool = False

    def until(self, part: float, new: float) -> float:
        """Share of all rows of the run that are rows of this source and come in its first part.

        Args:
            part: of the run, from 0 to 1.
            new: share of new rows; no rise takes more than half of them away.
        """
        rise = min(self.of_rows, new / 2) if self.rises else 0.0
        return self.of_rows * part - rise * part * (1 - part)


class CallOrder(IntEnum):
    """The order in which strategies are called; those of one turn in the order of the list."""

    FREEZES = 0
    """Chooses which weights train, before others look at these."""
    MERGES = 1
    """Changes the weights at the end of a round, before others measure the finished model."""
    USUAL = 2
    LOOKS_ON = 3
    """Goes by what others keep."""


@dataclass(eq=False, kw_only=True)
class RunState:
    """What a strategy keeps while a run goes on; a dataclass of its own where it keeps more.

    Attributes:
        counts: sums by name. Checkpoints save them, so that a resumed run goes on counting; all
            else is made anew at each start.
    """

    counts: dict[str, float] = field(default_factory=dict)


class Strategy(Settings):
    """How learning new rows protects what was learned before.

    It holds settings only. What it keeps while a run goes on is the state that `prepare` returns,
    which all later hooks are given; what must last is the `Memory` that `after_round` returns,
    which is saved in the version. All hooks do nothing by default and are additive, so strategies
    combine.
    """

    turn: ClassVar[CallOrder] = CallOrder.USUAL
    """When it is called among the others, whatever its place in the list."""
    keeps_rows: ClassVar[bool] = False
    """Whether it remembers rows of earlier rounds."""
    reads_weights: ClassVar[bool] = True
    """Whether it looks at weights that train, or their gradients, while a run goes on; where
    processes share the model, they keep those whole for it."""
    when_empty: ClassVar[str] = ""
    """What a round lacks for which the parent remembers nothing, as in "no weight is held"; empty
    where that changes nothing."""

    def mixed_in(self) -> tuple[float, float]:
        """Fractions of all rows, and of the loss, that its sources take away from new rows."""
        return 0.0, 0.0

    def conflicts(
        self, others: "Mapping[str, Strategy]", adapter: "Adapter | None"
    ) -> Iterator[str]:
        """Reasons not to train with it, found before any model is loaded.

        Args:
            others: all strategies of the round, by name.
            adapter: what trains; None where it is not known.
        """
        return iter(())

    def prepare(self, model: "AdaptedModel", memory: Memory) -> RunState:
        """Before the first step, also of a resumed run: freeze layers, copy weights.

        The weights are those of the parent version and stay so; to move them is for `begin`.

        Args:
            model: before training.
            memory: of the parent version.
        """
        return RunState()

    def begin(self, model: "AdaptedModel", memory: Memory, state: Any) -> None:
        """Move the weights to where training begins, once every strategy is prepared."""

    def sources(self, memory: Memory) -> Sequence[ExtraSource]:
        """Old rows to mix into every update."""
        return ()

    def extra_loss(
        self, model: "AdaptedModel", batch: "MicroBatch", log_probs: "Tensor", state: Any
    ) -> "Mapping[str, Tensor]":
        """Named terms added to the loss of a micro-batch.

        Args:
            model: as being trained.
            batch: its `coefficients` add up to 1 over the micro-batches of an update; use them
                for terms that are averages over tokens.
            log_probs: [trained tokens] of this micro-batch.
            state: what `prepare` returned.

        Returns:
            Scalars by name.
        """
        return {}

    def penalty(self, model: "AdaptedModel", state: Any) -> "Mapping[str, Tensor]":
        """Named scalars on the weights alone, added once per update."""
        return {}

    def adjust_gradients(self, model: "AdaptedModel", state: Any) -> None:
        """Change gradients in place, once per update, before they are clipped."""

    def after_step(self, model: "AdaptedModel", state: Any) -> None:
        """After each update that moved the weights: not after one that was skipped."""

    def after_round(
        self,
        model: "AdaptedModel",
        rows: Sequence[Example],
        memory: Memory,
        state: Any,
        *,
        seed: int,
    ) -> Memory:
        """What to keep for the next round.

        Args:
            model: after training.
            rows: the new rows of this round.
            memory: of the parent version, with what strategies called earlier added to it.
            state: what `prepare` returned, or one of `gentler`.
            seed: for anything drawn at random.
        """
        return memory

    def keep(self, rows: Sequence[Example], memory: Memory, *, seed: int) -> Memory:
        """What to keep of rows that a model was taught elsewhere, from the rows alone.

        Args:
            rows: that it was taught.
            memory: with what strategies called earlier added to it.
            seed: for anything drawn at random.
        """
        return memory

    @classmethod
    def consolidated(cls, memory: Memory) -> Memory:
        """What of a memory still holds when the adapter's update went into the base's weights.

        The next round begins with a fresh adapter, whose update is zero.
        """
        return memory

    def gentler(self, state: Any) -> "Mapping[str, Any]":
        """Other ends of a round, each forgetting less than the one before, by a name to show.

        A gate tries them in turn where it refuses the version as it was trained: `after_round` is
        called on the same weights again, with these states in place of that of the run.
        """
        return {}


STRATEGIES: Registry[Strategy] = Registry("strategy")


@dataclass(frozen=True)
class Protection:
    """The strategies of a run, in the order of their turns, and what they remember."""

    strategies: tuple[Strategy, ...] = ()
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        """Put them in order."""
        in_turn = sorted(self.strategies, key=lambda strategy: strategy.turn)
        object.__setattr__(self, "strategies", tuple(in_turn))


class Costs:
    """Seconds by strategy, over all starts of a run.

    Rows that a strategy mixes in cost their share of the updates, which is not counted here. On a
    GPU a hook may return before its work is done.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by strategy, as what earlier starts of the run spent."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value

    @contextmanager
    def of(self, strategy: Strategy) -> Iterator[None]:
        """Count the time until the end of the block."""
        started = time.perf_counter()
        yield
        self.add({STRATEGIES.name_of(strategy): time.perf_counter() - started})

    def each(self, strategies: Iterable[Strategy]) -> Iterator[Strategy]:
        """Strategies one after another; the time spent on each is counted."""
        for strategy in strategies:
            with self.of(strategy):
                yield strategy
