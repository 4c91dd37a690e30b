"""What a run made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_factory.core.types import Memory
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.token_cache import Cut
from llama_factory.training.checkpoints import Position
from llama_factory.training.rows import MOST_SHOWN, UnfitRow


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
    """What a run made.

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
