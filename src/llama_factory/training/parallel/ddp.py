"""Every process holds the whole model and computes a part of each update.

Li et al. 2020, https://arxiv.org/abs/2006.15704
"""

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from llama_factory.training.parallel import PARALLELS, Parallel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from llama_factory.model.adapted import AdaptedModel


@PARALLELS.register("ddp")
class Ddp(Parallel):
    """Every process holds the whole model; one process alone does everything."""

    def open(self, model: "AdaptedModel") -> "Fabric":
        """See `Parallel.open`."""
        from lightning_fabric.strategies import DDPStrategy

        from llama_factory.training.fabrics import alone, together
        from llama_factory.training.processes import current

        if not current().are_several:
            return alone(model)
        # nothing in the buffers of a language model changes while it trains
        return together(model, DDPStrategy(find_unused_parameters=True, broadcast_buffers=False))

    def unsynchronised(self, fabric: "Fabric", module: Any) -> AbstractContextManager[None]:
        """See `Parallel.unsynchronised`: gradients of all are added up once in an update."""
        return fabric.no_backward_sync(module)
