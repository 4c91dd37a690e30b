"""Ways for several processes to share a run, one file each."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

from llama_factory.core.settings import Registry, Settings, import_parts

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.adapters import Adapter


class Parallel(Settings):
    """How processes share a run. A part holds settings only.

    Attributes:
        shards: each process holds a part of the weights, so all make the same forward passes.
    """

    shards: ClassVar[bool] = False

    @property
    def in_place(self) -> bool:
        """Whether the base model's weights stay in their files: no process ever holds them all."""
        return False

    def conflicts(self, adapter: "Adapter", dtype: str, training: Any) -> Iterator[str]:
        """Reasons not to train so, found before any model is loaded.

        Args:
            adapter: what trains.
            dtype: number format of the products, as the settings name it.
            training: its other settings.
        """
        return iter(())

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


PARALLELS: Registry[Parallel] = Registry("parallel")
import_parts(__name__, __path__)
