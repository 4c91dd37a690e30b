"""What is minimised, one file each: what the model makes of some sequences -> a loss for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.core.types import Example

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.training.batching import MicroBatch


@dataclass(frozen=True)
class Scored:
    """A micro-batch after its forward pass.

    Attributes:
        batch: the sequences.
        outputs: what the objective's kernel made of them; [trained tokens] log-probabilities in
            nats, float32, where the objective has no kernel of its own.
        survey: what `Objective.survey` found out about the whole update.
    """

    batch: "MicroBatch"
    outputs: "Tensor"
    survey: "Tensor | None" = None

    @property
    def sums(self) -> "Tensor":
        """[sequences] log-probability of each sequence's trained tokens together, in nats."""
        zeros = self.outputs.new_zeros(len(self.batch.ids))
        return zeros.index_add(0, self.batch.sequence_of, self.outputs)

    @property
    def num_trained(self) -> "Tensor":
        """[sequences] trained tokens of each."""
        counts = self.batch.sequence_of.bincount(minlength=len(self.batch.ids))
        return counts.to(self.outputs.dtype)


@dataclass(frozen=True)
class Losses:
    """What an objective makes of a micro-batch.

    Attributes:
        values: [trained tokens] or [rows], as `Objective.unit` says; unreduced.
        numbers: [rows] by name, to be averaged over the update and shown; nan where a row has none.
    """

    values: "Tensor"
    numbers: "Mapping[str, Tensor]" = field(default_factory=dict)


class Objective(Settings):
    """A loss. It returns unreduced values; the loop weighs them over the whole update.

    Attributes:
        encoding: what a row stands for, one of `model.encodings.ENCODERS`.
        unit: whether it returns a loss for each trained token or for each row.
        num_trained: how many sequences of a row get a gradient; the others are surveyed. None: all.
        needs_reference: whether it compares with the model at the start of the run.
        packs: whether short rows share a row of an update where the settings do not say.
        teaches_answers: whether the model it makes answers; a reward model judges answers.
    """

    encoding: ClassVar[str] = "answers"
    unit: ClassVar[Literal["token", "row"]] = "token"
    num_trained: ClassVar[int | None] = None
    needs_reference: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    teaches_answers: ClassVar[bool] = True

    @property
    def is_choosy(self) -> bool:
        """Whether there are rows that it cannot use."""
        return type(self).misfit is not Objective.misfit

    def misfit(self, example: Example) -> str:
        """Why a row cannot be used, told before any model is loaded; empty where it can."""
        return ""

    def rows(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The rows as this objective needs them, in the same order and number."""
        return examples

    def prepare(self, model: "AdaptedModel") -> None:
        """Before anything else: add weights that train."""

    def kernel(self, model: "AdaptedModel") -> "nn.Module":
        """The forward pass: `(ids, targets)` of a micro-batch -> `Scored.outputs`."""
        from llama_factory.model.log_probs import TokenLogProbs

        return TokenLogProbs(model.network)

    def log_probs(self, outputs: "Tensor") -> "Tensor":
        """[trained tokens] log-probabilities among the kernel's outputs, for strategies."""
        return outputs

    def survey(self, scored: Sequence[Scored]) -> "Tensor | None":
        """What must be known of the whole update before any row is weighed.

        Args:
            scored: the sequences of all rows that get no gradient.
        """
        return None

    def losses(self, scored: Scored) -> Losses:
        """Losses of the rows or tokens of a micro-batch, in nats."""
        raise NotImplementedError


OBJECTIVES: Registry[Objective] = Registry("objective")
import_parts(__name__, __path__)
