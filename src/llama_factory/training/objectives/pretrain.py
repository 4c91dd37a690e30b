"""Continued pretraining: every token of plain texts, long ones in parts, short ones packed."""

from typing import ClassVar

from llama_factory.training.objectives import OBJECTIVES, ForwardPass, Losses
from llama_factory.training.objectives.smoothing import Smoothed


@OBJECTIVES.register("pretrain")
class Pretrain(Smoothed):
    """Cross-entropy on every token; conversations are written with the chat template."""

    encoding: ClassVar[str] = "documents"
    packs: ClassVar[bool] = True

    def losses(self, scored: ForwardPass) -> Losses:
        """See `Objective.losses`."""
        return Losses(self.cross_entropy(scored.outputs))
