"""Direct preference optimisation: the better answer likelier than under the reference, the worse
one less likely. Rafailov et al. 2023, https://arxiv.org/abs/2305.18290.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses
from llama_factory.training.objectives.paired import PreferenceObjective, compared, split

if TYPE_CHECKING:
    from torch import Tensor


@OBJECTIVES.register("dpo")
class Dpo(PreferenceObjective):
    """Preference pairs against the model as it was at the start of the run."""

    needs_reference: ClassVar[bool] = True

    beta: float = Field(0.1, gt=0)
    """How dear it is to leave the reference. Higher stays closer to it and learns less."""
    loss: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    """`sigmoid` is DPO; `hinge` (SLiC) lets pairs go once they are separated; `ipo` aims at a
    fixed difference and overfits less."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Fraction of pairs that are taken to be the wrong way round (conservative DPO), for noisy
    preferences. With `sigmoid` only."""
    tail_weight: float = Field(1.0, ge=0, le=1)
    """How much the tokens count by which an answer is longer than the other of its pair (LD-DPO).
    Lower favours length less."""
    bco_weight: float = Field(0.0, ge=0)
    """Weight of BCO's loss beside DPO's own; both are divided by 1 + this weight. Higher cares more
    that good answers get likelier and bad ones less likely, and less for their difference."""

    @property
    def surveys_trained(self) -> bool:
        """See `Objective.surveys_trained`."""
        return self.bco_weight > 0

    def survey(self, scored: Sequence[ForwardPass], kept: Mapping[str, float]) -> "Tensor":
        """The reward that tells good answers from bad ones: the mean over all updates so far.

        Every update counts the same in it, this one too.
        """
        import torch

        rewards = torch.cat([self.beta * self._ratios(each) for each in scored]).mean()
        before = kept.get("reward_baseline", 0.0)
        return before + (rewards - before) / (kept.get("updates", 0.0) + 1)

    def keep(self, surveyed: "Tensor", kept: Mapping[str, float]) -> Mapping[str, float]:
        """See `Objective.keep`."""
        return {"reward_baseline": float(surveyed), "updates": kept.get("updates", 0.0) + 1}

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        ratios = self._ratios(scored)
        values, numbers = self._loss(*split(ratios)), self._numbers(scored)
        if self.bco_weight:
            assert scored.survey is not None
            values = values + self.bco_weight * self._bco(*split(ratios), scored.survey)
            values = values / (1 + self.bco_weight)
            numbers["reward_baseline"] = scored.survey.expand(len(values))
        return Losses(self.taught(scored, values), numbers)

    def _sums(self, scored: ForwardPass) -> "Tensor":
        return scored.sums if self.tail_weight == 1 else self._without_tails(scored)

    def _ratios(self, scored: ForwardPass) -> "Tensor":
        """[sequences] how much likelier than under the reference; of a token on average for ipo."""
        ratios = self._sums(scored) - scored.batch.reference
        return ratios / scored.num_trained if self.loss == "ipo" else ratios

    def _numbers(self, scored: ForwardPass) -> "dict[str, Tensor]":
        better, worse = split(self._sums(scored) - scored.batch.reference)
        return compared(self.beta * better, self.beta * worse)

    def _bco(self, better: "Tensor", worse: "Tensor", baseline: "Tensor") -> "Tensor":
        """[rows] out of the log-ratios of both answers: each is judged by itself.

        Jung et al. 2024, https://arxiv.org/abs/2404.04656.
        """
        from torch.nn.functional import logsigmoid

        good, bad = self.beta * better - baseline, self.beta * worse - baseline
        return -logsigmoid(good) - logsigmoid(-bad)

    def _without_tails(self, scored: ForwardPass) -> "Tensor":
        """[sequences] log-probabilities in which the tail of the longer answer counts less.

        Liu et al. 2024, https://arxiv.org/abs/2409.06411; the reference's are counted whole.
        """
        import torch

        sequence_of, lengths = scored.batch.sequence_of, scored.num_trained.long()
        places = torch.arange(len(sequence_of), device=sequence_of.device)
        places = places - (lengths.cumsum(0) - lengths)[sequence_of]
        shorter = torch.minimum(*split(lengths)).repeat_interleave(2)
        weights = torch.where(places < shorter[sequence_of], 1.0, self.tail_weight)
        return scored.summed(scored.outputs * weights)

    def _loss(self, better: "Tensor", worse: "Tensor") -> "Tensor":
        """[rows] out of the log-ratios of both answers.

        IPO: Azar et al. 2023, https://arxiv.org/abs/2310.12036, on means over tokens as its
        authors advise; hinge: Zhao et al. 2023, https://arxiv.org/abs/2305.10425; smoothing:
        Mitchell 2023, https://ericmitchell.ai/cdpo.pdf.
        """
        from torch.nn.functional import logsigmoid

        margin = better - worse
        if self.loss == "ipo":
            return (margin - 1 / (2 * self.beta)) ** 2
        if self.loss == "hinge":
            return (1 - self.beta * margin).relu()
        scaled, smooth = self.beta * margin, self.label_smoothing
        return -(1 - smooth) * logsigmoid(scaled) - smooth * logsigmoid(-scaled)
