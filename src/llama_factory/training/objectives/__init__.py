"""Objectives, one file each: a micro-batch after its forward pass -> unreduced losses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal

from llama_factory.core.errors import DataError
from llama_factory.core.settings import Registry, Settings, import_parts
from llama_factory.core.types import Example

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llama_factory.model.adapted import AdaptedModel


MOST_CHECKED = 1000
"""Rows whose kind is checked early: a set is of one kind, or nearly so."""


@dataclass(frozen=True)
class MicroBatch:
    """Token sequences that go through the model together, padded on the right.

    An objective that weighs tokens sees each sequence by itself; one that weighs rows finds the
    sequences of a row side by side.

    Attributes:
        ids: [sequences, seq] token ids.
        targets: [sequences, seq] the token that each position must predict, IGNORED where none.
        coefficients: [trained tokens] each token's share of the update's loss, in the order of
            `targets` read row by row; they add up to 1 over the update (weights of rows and turns
            aside).
        sources: [trained tokens] the source of each, as an index into `Batch.sources`.
        sequence_of: [trained tokens] the sequence of each.
        row_coefficients: [rows] each row's share of the update's loss.
        row_sources: [rows] the source of each.
        reference: [sequences] log-probability of each under the model at the start of the run;
            0 where the objective needs none.
        is_desirable: [sequences] whether people liked the answer.
        source_names: `Batch.sources`.
        source_shares: `Batch.shares`.
        objective: what is minimised on these rows.
    """

    ids: "Tensor"
    targets: "Tensor"
    coefficients: "Tensor"
    sources: "Tensor"
    sequence_of: "Tensor"
    row_coefficients: "Tensor"
    row_sources: "Tensor"
    reference: "Tensor"
    is_desirable: "Tensor"
    source_names: tuple[str, ...]
    source_shares: tuple[float, ...]
    objective: "Objective"

    def weightless(self) -> "MicroBatch":
        """The same sequences, counting for nothing."""
        return replace(
            self,
            coefficients=0 * self.coefficients,
            row_coefficients=0 * self.row_coefficients,
        )

    def on(self, move: "Callable[[Tensor], Tensor]") -> "MicroBatch":
        """The same with every tensor moved."""
        from torch import Tensor

        tensors = {name: move(v) for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ForwardPass:
    """A micro-batch after its forward pass.

    Attributes:
        batch: the sequences.
        outputs: what the objective's kernel made of them; [trained tokens] log-probabilities in
            nats, float32, where the objective has no kernel of its own.
        survey: what `Objective.survey` returned for the whole update.
    """

    batch: MicroBatch
    outputs: "Tensor"
    survey: "Tensor | None" = None

    @property
    def sums(self) -> "Tensor":
        """[sequences] log-probability of each sequence's trained tokens together, in nats."""
        return self.summed(self.outputs)

    def summed(self, values: "Tensor") -> "Tensor":
        """[trained tokens] -> [sequences] their sums."""
        zeros = values.new_zeros(len(self.batch.ids))
        return zeros.index_add(0, self.batch.sequence_of, values)

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
        reads_weights: whether it holds on to weights that train; where processes share the model,
            they keep those whole for it.
        is_by_token: whether its kernel gives something for each trained token, of one model.
    """

    encoding: ClassVar[str] = "answers"
    unit: ClassVar[Literal["token", "row"]] = "token"
    num_trained: ClassVar[int | None] = None
    needs_reference: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    teaches_answers: ClassVar[bool] = True
    reads_weights: ClassVar[bool] = False
    is_by_token: ClassVar[bool] = True

    @property
    def surveys_trained(self) -> bool:
        """Whether the survey looks at the sequences that get a gradient too."""
        return False

    @property
    def is_choosy(self) -> bool:
        """Whether there are rows that it cannot use."""
        return type(self).misfit is not Objective.misfit

    def misfit(self, example: Example) -> str:
        """Why a row cannot be used; empty where it can. Asked before any model is loaded."""
        return ""

    def rows(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The rows as this objective needs them, in the same order and number."""
        return examples

    def prepare(self, model: "AdaptedModel") -> None:
        """Before anything else: add weights that train."""

    def kernel(self, model: "AdaptedModel") -> "nn.Module":
        """The forward pass: `(ids, targets)` of a micro-batch -> `ForwardPass.outputs`."""
        from llama_factory.model.output_head import TokenLogProbs

        return TokenLogProbs(model.network)

    def log_probs(self, outputs: "Tensor") -> "Tensor":
        """[trained tokens] log-probabilities among the kernel's outputs, for strategies."""
        return outputs

    def survey(self, scored: Sequence[ForwardPass], kept: Mapping[str, float]) -> "Tensor | None":
        """What must be known of the whole update before any row is weighed.

        Args:
            scored: the sequences of all rows that get no gradient, or all sequences.
            kept: what `keep` returned after the update before; empty before the first.
        """
        return None

    def keep(self, surveyed: "Tensor", kept: Mapping[str, float]) -> Mapping[str, float]:
        """What later surveys must know of an update that moved the weights; checkpoints save it.

        Args:
            surveyed: what `survey` returned.
            kept: of the updates before.
        """
        return kept

    def losses(self, scored: ForwardPass) -> Losses:
        """Losses of the rows or tokens of a micro-batch, in nats."""
        raise NotImplementedError


OBJECTIVES: Registry[Objective] = Registry("objective")


def require_fitting(objective: Objective, rows: Sequence[Example]) -> None:
    """Make sure, before any model is loaded, that there is something to train on.

    Raises:
        DataError: none of the first rows is of the kind that the objective needs.
    """
    first = list(islice(rows, MOST_CHECKED))
    if not first or any(not objective.misfit(row) for row in first):
        return
    name, row = OBJECTIVES.name_of(objective), first[0]
    parts = OBJECTIVES.parts.items()
    fitting = [each for each, part in parts if not part.misfit(part.model_construct(), row)]
    fitting.sort(key=lambda each: (each != "sft", each))
    raise DataError(
        f"training.objective: {name} cannot be trained on these rows. {row.file}:{row.line}: "
        f"{objective.misfit(row)}. Such rows fit {', '.join(fitting)}."
    )


import_parts(__name__, __path__)
