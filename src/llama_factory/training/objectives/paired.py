"""What the objectives on preference pairs share. Registers nothing itself."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llama_factory.core.types import Example
from llama_factory.training.objectives import ForwardPass, Objective

if TYPE_CHECKING:
    from torch import Tensor


class PairObjective(Objective):
    """A loss on a better and a worse answer to the same prompt."""

    encoding: ClassVar[str] = "pairs"
    unit: ClassVar[Literal["token", "row"]] = "row"

    def misfit(self, example: Example) -> str:
        """See `Objective.misfit`."""
        return "" if example.rejected is not None else "it is no preference pair (chosen, rejected)"


class PreferenceObjective(PairObjective):
    """One that makes answers likelier or less likely, and may teach the better one besides."""

    sft_weight: float = Field(0.0, ge=0)
    """Weight of the better answer's own mean loss, added to each pair's. Higher keeps the better
    answers likely in absolute terms."""

    def taught(self, scored: ForwardPass, values: "Tensor") -> "Tensor":
        """[rows] losses with the better answers' own beside them, where they count."""
        if not self.sft_weight:
            return values
        chosen, _ = split(scored.sums / scored.num_trained)
        return values - self.sft_weight * chosen


def split(values: "Tensor") -> "tuple[Tensor, Tensor]":
    """[sequences] -> [rows] of the better and [rows] of the worse answers."""
    return values[0::2], values[1::2]


def compared(better: "Tensor", worse: "Tensor") -> "dict[str, Tensor]":
    """[rows] each: rewards of both answers, their difference, and how often it is positive."""
    better, worse = better.detach(), worse.detach()
    return {
        "reward_chosen": better,
        "reward_rejected": worse,
        "reward_margin": better - worse,
        "reward_accuracy": (better > worse).to(better.dtype),
    }
