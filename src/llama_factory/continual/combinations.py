"""What is wrong with a list of strategies, or with a parent's memory for them, before training."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Memory
from llama_factory.model.adapters import Adapter
from llama_factory.training.strategy import STRATEGIES, Strategy

GIVEN_TWICE = kind_of_sentence(
    "settings.given_twice",
    "{name} is given {count} times, and its memory has room for one. Give it once.",
)
NOTHING_NEW_LEFT = kind_of_sentence(
    "settings.nothing_new_left",
    "{what} of {strategies} add up to {total}, which leaves nothing for new rows. Lower one of "
    "them.",
)
KEEPS_ROWS = kind_of_sentence(
    "settings.keeps_rows",
    "data.keep_rows is false and {strategy} keeps old rows to train with. Leave it out "
    "(strategies: no-data), or set data.keep_rows to true.",
)


def problems(strategies: Sequence[Strategy], adapter: Adapter | None) -> Iterator[str]:
    """Every reason not to train like this.

    Args:
        strategies: of a round.
        adapter: what trains; None where it is not known.
    """
    names = Counter(map(STRATEGIES.name_of, strategies))
    for name, count in names.items():
        if count > 1:
            yield GIVEN_TWICE(name=name, count=count)
    named = {STRATEGIES.name_of(strategy): strategy for strategy in strategies}
    yield from _too_little_new(named)
    for strategy in named.values():
        yield from strategy.conflicts(named, adapter)


def _too_little_new(named: Mapping[str, Strategy]) -> Iterator[str]:
    mixed = {name: each.mixed_in() for name, each in named.items() if any(each.mixed_in())}
    for place, what in enumerate(("fraction", "weight")):
        total = sum(fractions[place] for fractions in mixed.values())
        if total >= 1:
            yield NOTHING_NEW_LEFT(what=what, strategies=" and ".join(mixed), total=f"{total:g}")
            return


def rows_kept_by(strategies: Sequence[Strategy]) -> Iterator[str]:
    """Which strategies remember rows, where rows may not be kept."""
    for strategy in strategies:
        if strategy.keeps_rows:
            yield KEEPS_ROWS(strategy=STRATEGIES.name_of(strategy))


def empty_starts(strategies: Sequence[Strategy], memory: Memory) -> list[str]:
    """Warnings of strategies for which a version that was trained before kept nothing.

    Args:
        strategies: of the round.
        memory: of its parent, before any hook saw it.
    """
    known = {*memory.rows, *(key.split(".")[0] for key in (*memory.tensors, *memory.numbers))}
    lacks = {STRATEGIES.name_of(each): each.when_empty for each in strategies}
    return [
        f"strategies.{name} starts empty: the parent version was trained without it, so {lack} in "
        "this round. It protects from the next round on."
        for name, lack in lacks.items()
        if lack and name not in known
    ]
