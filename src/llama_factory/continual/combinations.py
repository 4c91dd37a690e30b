"""Which strategies make no sense together, or with an adapter, told before any model is loaded."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from llama_factory.continual.strategies.agem import Agem
from llama_factory.continual.strategies.anchor import Anchor
from llama_factory.continual.strategies.distill import Distill
from llama_factory.continual.strategies.olora import OLora
from llama_factory.continual.strategies.replay import Replay
from llama_factory.model.adapters import ADAPTERS, Adapter
from llama_factory.model.adapters.lora import Lora
from llama_factory.training.strategy import STRATEGIES, Strategy

Named = Mapping[str, Strategy]
"""Strategies by name."""


def problems(strategies: Sequence[Strategy], adapter: Adapter | None) -> Iterator[str]:
    """Every reason not to train like this.

    Args:
        strategies: of a round.
        adapter: what trains; None where it is not known.
    """
    names = Counter(map(STRATEGIES.name_of, strategies))
    for name, count in names.items():
        if count > 1:
            yield f"{name} is given {count} times, and its memory has room for one. Give it once."
    named = {STRATEGIES.name_of(strategy): strategy for strategy in strategies}
    yield from _contradictions(named)
    yield from _too_little_new(named)
    yield from _without_rows(named)
    if adapter is not None:
        yield from _without_parts(named, adapter)


def rows_kept_by(strategies: Sequence[Strategy]) -> Iterator[str]:
    """Which strategies remember rows, where rows may not be kept."""
    for strategy in strategies:
        if isinstance(strategy, Replay | Agem):
            yield (
                f"data.keep_rows is false and {STRATEGIES.name_of(strategy)} keeps old rows to "
                "train with. Leave it out (strategies: no-data), or set data.keep_rows to true."
            )


def _contradictions(named: Named) -> Iterator[str]:
    if "merge" not in named:
        return
    if "olora" in named:
        yield (
            "olora and merge exclude each other: olora keeps each round in a part of the adapter "
            "of its own, and merge mixes the rounds in all of it. Leave one of them out."
        )
    if "ewc" in named and named["ewc"].model_dump().get("form") == "adapter":
        yield (
            "ewc with form adapter and merge exclude each other: it holds A and B one by one, and "
            "merge writes their product with another A and B. Use form: delta, which holds the "
            "product."
        )


def _too_little_new(named: Named) -> Iterator[str]:
    mixed = [each for each in named.values() if isinstance(each, Replay | Anchor)]
    rows = sum(each.fraction for each in mixed)
    loss = sum(each.fraction if each.weight is None else each.weight for each in mixed)
    for total, what in ((rows, "fraction"), (loss, "weight")):
        if total >= 1:
            given = " and ".join(STRATEGIES.name_of(each) for each in mixed)
            yield (
                f"{what} of {given} add up to {total:g}, which leaves nothing for new rows. Lower "
                "one of them."
            )
            return


def _without_rows(named: Named) -> Iterator[str]:
    distill = named.get("distill")
    if isinstance(distill, Distill) and not any(name in named for name in distill.rows):
        yield (
            f"distill compares answers to the rows of {' and '.join(distill.rows)}, and there is "
            "no such strategy in the list. Add one, or leave distill out."
        )


def _without_parts(named: Named, adapter: Adapter) -> Iterator[str]:
    olora = named.get("olora")
    if not isinstance(olora, OLora):
        return
    kind = ADAPTERS.name_of(adapter)
    if not isinstance(adapter, Lora):
        yield (
            f"olora gives each round a part of a LoRA adapter, and model.adapter is {kind}. Use "
            "lora, or leave olora out."
        )
        return
    extra = {
        "init": adapter.is_principal,
        "use_dora": adapter.use_dora,
        "modules_to_save": bool(adapter.modules_to_save),
    }
    for name in (name for name, is_set in extra.items() if is_set):
        yield (
            f"olora and model.adapter.{name} exclude each other: what it trains cannot be divided "
            "into parts for rounds. Leave one of them out."
        )
    if olora.rank > adapter.rank:
        yield (
            f"olora.rank is {olora.rank} and model.adapter.rank is {adapter.rank}, so not even one "
            "round fits. Lower the first, or raise the second."
        )
