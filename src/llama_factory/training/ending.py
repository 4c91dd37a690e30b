"""How a run ends: what its strategies make of the trained weights, and gentler ways of it."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from llama_factory.core.types import Example, Memory
from llama_factory.training.outcome import End
from llama_factory.training.strategy import STRATEGIES, Strategy
from llama_factory.training.update import Run


def ends_of(run: Run, examples: Sequence[Example]) -> tuple[End, ...]:
    """The run as its strategies end it, and as gentler ones of them do."""
    strategies = run.protection.strategies
    gentler = [
        (place, f"{STRATEGIES.name_of(strategy)}, {name}", other)
        for place, strategy in enumerate(strategies)
        for name, other in strategy.gentler().items()
    ]
    weights = run.model.trainable().items() if gentler else ()
    trained = {name: weight.detach().clone() for name, weight in weights}
    ends = [End("as trained", partial(_remember, run, examples, strategies, trained))]
    for place, name, other in gentler:
        changed = (*strategies[:place], other, *strategies[place + 1 :])
        ends.append(End(name, partial(_remember, run, examples, changed, trained)))
    return tuple(ends)


def _remember(
    run: Run,
    examples: Sequence[Example],
    strategies: Sequence[Strategy],
    trained: Mapping[str, Tensor],
) -> Memory:
    """Weights as they were trained, ended by strategies; what these keep for the next round."""
    with torch.no_grad():
        for name, weight in trained.items():
            run.model.trainable()[name].copy_(weight)
    kept = run.protection.memory
    for strategy in strategies:
        with run.costs.of(strategy):
            kept = strategy.after_round(run.model, examples, kept, seed=run.settings.seed)
    return kept
