"""The result of a run: its ends, and what is reported of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llama_factory.core.types import Example, Memory
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.token_cache import Cut
from llama_factory.training.checkpoints import Position
from llama_factory.training.items import MOST_SHOWN, UnfitRow
from llama_factory.training.setup import Run
from llama_factory.training.strategy import STRATEGIES, RunState


@dataclass(frozen=True)
class End:
    """One way for a run to end.

    Attributes:
        name: what is shown of it.
        reach: give the model the weights of this end; returns what strategies keep then.
    """

    name: str
    reach: Callable[[], Memory]


@dataclass(frozen=True)
class TrainedModel:
    """The result of a run.

    Attributes:
        model: carries the trained adapter.
        memory: what the strategies keep for the next round.
        position: where the run ended.
        ended_by: what cut it short: `max_minutes`, `early_stopping_steps`, or nothing.
        unfit: rows left out, and why: the template refuses them, or there is no room to answer.
        cut: what rows lost because they are too long.
        measured: the objective's loss and numbers on the held-out rows, where they were measured.
        ends: the end that was reached, and others that forget less, for a gate to choose from.
        hook_seconds: spent in the hooks of each strategy.
        divergence: in words, where the run ended far above its beginning; else nothing.
    """

    model: AdaptedModel
    memory: Memory
    position: Position
    ended_by: str
    unfit: tuple[UnfitRow, ...]
    cut: Cut
    measured: dict[str, float] = field(default_factory=dict)
    ends: tuple[End, ...] = ()
    hook_seconds: Mapping[str, float] = field(default_factory=dict)
    divergence: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens seen, without padding."""
        return self.position.num_tokens

    @property
    def seconds(self) -> float:
        """Time spent training, over all starts."""
        return self.position.seconds

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        at = self.position
        speed = at.num_tokens / at.seconds if at.seconds else 0.0
        report = {
            "steps": at.step,
            "loss": at.loss,
            "tokens": at.num_tokens,
            "seconds": round(at.seconds, 2),
            "tokens_per_second": round(speed, 1),
            "ended_by": self.ended_by,
            "gradient_spikes": at.num_spikes,
            "skipped_updates": at.num_skipped,
            "divergence": self.divergence,
            "hook_seconds": {name: round(each, 3) for name, each in self.hook_seconds.items()},
            "unfit": len(self.unfit),
            "unfit_rows": [str(row) for row in self.unfit[:MOST_SHOWN]],
            "cut": self.cut.to_json(),
        }
        report |= {f"eval_{name}": value for name, value in self.measured.items()}
        return report | (
            {"best_step": at.best_step, "best_loss": at.best_loss} if at.best_step else {}
        )


def ends_of(run: Run, examples: Sequence[Example]) -> tuple[End, ...]:
    """The run as its strategies end it, and as gentler ones of them do."""
    gentler = [
        (place, f"{STRATEGIES.name_of(strategy)}, {name}", other)
        for place, (strategy, state) in enumerate(run.strategies())
        for name, other in strategy.gentler(state).items()
    ]
    weights = run.model.trainable().items() if gentler else ()
    trained = {name: weight.detach().clone() for name, weight in weights}
    ends = [End("as trained", partial(_remember, run, examples, run.states, trained))]
    for place, name, other in gentler:
        changed = (*run.states[:place], other, *run.states[place + 1 :])
        ends.append(End(name, partial(_remember, run, examples, changed, trained)))
    return tuple(ends)


def _remember(
    run: Run,
    examples: Sequence[Example],
    states: Sequence[RunState],
    trained: Mapping[str, Tensor],
) -> Memory:
    """Weights as they were trained, ended by the strategies; what these keep for the next round."""
    with torch.no_grad():
        for name, weight in trained.items():
            run.model.trainable()[name].copy_(weight)
    kept = run.protection.memory
    seed, strategies = run.settings.seed, run.costs.each(run.protection.strategies)
    for strategy, state in zip(strategies, states, strict=True):
        kept = strategy.after_round(run.model, examples, kept, state, seed=seed)
    return kept
