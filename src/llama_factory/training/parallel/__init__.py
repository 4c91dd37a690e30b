"""Ways for several processes to share a run, one file each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.settings import Registry, Settings, import_parts

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.adapters import Adapter


NOT_IN_PARTS = kind_of_sentence(
    "settings.not_in_parts",
    "training.parallel.context and training.{name} exclude each other: processes that share "
    "sequences see parts of rows. Leave {name} out, or context.",
)
OBJECTIVE_OF_WHOLES = kind_of_sentence(
    "settings.objective_of_wholes",
    "training.parallel.context and this training.objective exclude each other: it looks at more"
    " of a sequence than its tokens' probabilities under one model. Leave context out.",
)
NO_PROMPT_IN_PARTS = kind_of_sentence(
    "settings.no_prompt_in_parts",
    "training.parallel.context and adapter prompt exclude each other: its vectors stand before "
    "every part of a row. Use lora, or leave context out.",
)


class Parallel(Settings):
    """How processes share a run. A part holds settings only.

    Attributes:
        shards: each process holds a part of the weights, so all make the same forward passes.
    """

    shards: ClassVar[bool] = False

    context: int = Field(1, ge=1)
    """How many processes compute each sequence together, a part each: for rows that are too long
    for one. Higher needs less memory for activations, and more sending. 1: each computes whole
    rows."""

    @property
    def reads_plainly(self) -> bool:
        """Whether rows go through the layers as they are: others compute alike at the same time."""
        return self.shards or self.context > 1

    @property
    def in_place(self) -> bool:
        """Whether the base model's weights stay in their files: no process ever holds them all."""
        return False

    @property
    def offloads(self) -> bool:
        """Whether what a process holds of weights and optimizer state lies in main memory."""
        return False

    def conflicts(self, adapter: "Adapter", dtype: str, training: Any) -> Iterator[str]:
        """Reasons not to train so, found before any model is loaded.

        Args:
            adapter: what trains.
            dtype: number format of the products, as the settings name it.
            training: its other settings.
        """
        if self.context > 1:
            yield from _needing_whole_rows(adapter, training)

    def open(self, model: "AdaptedModel") -> "Fabric":
        """Fabric over all processes, in the model's number format.

        Args:
            model: whole, on its device.
        """
        raise NotImplementedError

    def place(
        self, fabric: "Fabric", kernels: "nn.Module", *, keeps_trained: bool
    ) -> "tuple[Any, Callable[[], None]]":
        """The module as it trains, and what makes it whole again in every process.

        Args:
            fabric: what `open` gave.
            kernels: whole; the weights in it may be replaced by parts of them.
            keeps_trained: every process needs all of the weights that train.
        """
        return fabric.setup_module(kernels), _nothing

    def unsynchronised(self, fabric: "Fabric", module: Any) -> AbstractContextManager[None]:
        """For a backward pass after which the update goes on: gradients need not be sent yet."""
        return nullcontext()

    def let_go(self, module: Any) -> None:
        """After passes without a backward pass: nothing is held that others hold as well."""

    def finish_gradients(self, model: "AdaptedModel") -> None:
        """After the last backward pass: gradients of all processes are those of the update."""


def _nothing() -> None:
    """It is whole."""


def _needing_whole_rows(adapter: "Adapter", training: Any) -> Iterator[str]:
    """What cannot be where processes share sequences."""
    names = [name for name in ("compile", "share_prefixes") if getattr(training, name) is True]
    names += ["neftune_alpha"] if training.neftune_alpha is not None else []
    for name in names:
        yield NOT_IN_PARTS(name=name)
    if not training.objective.is_by_token:
        yield OBJECTIVE_OF_WHOLES()
    if adapter.peft_type == "PROMPT_TUNING":
        yield NO_PROMPT_IN_PARTS()


PARALLELS: Registry[Parallel] = Registry("parallel")
import_parts(__name__, __path__)
