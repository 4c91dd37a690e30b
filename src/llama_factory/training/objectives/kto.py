"""Kahneman-Tversky optimisation: single answers that people liked or did not like.
Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llama_factory.core.types import Example
from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses, Objective

if TYPE_CHECKING:
    from torch import Tensor


@OBJECTIVES.register("kto")
class Kto(Objective):
    """Liked answers likelier, disliked ones less likely, against the model at the start.

    How far the model has moved in general is estimated over the whole update, from the answers
    given to the prompts of other rows (section 4.2 of the paper), and gets no gradient.
    """

    encoding: ClassVar[str] = "pairs"
    unit: ClassVar[Literal["token", "row"]] = "row"
    num_trained: ClassVar[int | None] = 1
    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0)
    """How dear it is to leave the reference. Higher stays closer to it and learns less."""
    chosen_weight: float = Field(1.0, ge=0)
    """Factor on the loss of liked answers; raise it where they are few."""
    rejected_weight: float = Field(1.0, ge=0)
    """Factor on the loss of disliked answers; raise it where they are few."""
    sft_weight: float = Field(0.0, ge=0)
    """Weight of a liked answer's own mean loss, added to its row's. Higher keeps liked answers
    likely in absolute terms."""

    def misfit(self, example: Example) -> str:
        """See `Objective.misfit`."""
        return "" if example.is_desirable is not None else "nobody said whether its answer is good"

    def rows(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Each row with another row's answer beside its own."""
        return _Mismatched(examples)

    def survey(self, scored: Sequence[ForwardPass], kept: Mapping[str, float]) -> "Tensor":
        """Mean log-ratio of mismatched answers, at least 0: an estimate of KL(model || start)."""
        import torch

        ratios = [each.sums - each.batch.reference for each in scored]
        return torch.cat(ratios).mean().clamp(min=0)

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        ratios = scored.sums - scored.batch.reference
        assert scored.survey is not None
        moved = self.beta * (ratios - scored.survey)
        is_good = scored.batch.is_desirable
        weights = is_good * self.chosen_weight + ~is_good * self.rejected_weight
        values = weights * (1 - (moved * (2.0 * is_good - 1)).sigmoid())
        if self.sft_weight:
            values = values - self.sft_weight * is_good * scored.sums / scored.num_trained
        rewards = self.beta * ratios.detach()
        numbers = {
            "reward_chosen": rewards.where(is_good, float("nan")),
            "reward_rejected": rewards.where(~is_good, float("nan")),
            "kl": scored.survey.expand(len(ratios)),
        }
        return Losses(values, numbers)


class _Mismatched(Sequence[Example]):
    """Rows as pairs of their own answer and that of the row before that differs from it."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, place: int) -> Example:  # type: ignore[override]
        row, number = self._examples[place], len(self._examples)
        for step in range(1, min(number, 100)):
            other = self._examples[(place - step) % number]
            if other.answer != row.answer and not other.is_text:
                return replace(row, rejected=other.messages[-1])
        return replace(row, rejected=row.messages[-1])
