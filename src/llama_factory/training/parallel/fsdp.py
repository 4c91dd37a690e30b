"""Each process holds a part of every weight, its gradient and its optimizer state.

Weights of a layer are gathered for the moment in which it computes: Zhao et al. 2023,
https://arxiv.org/abs/2304.11277; Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054. Torch's
`fully_shard` (FSDP2) through Lightning's ModelParallelStrategy.

Each forward and backward pass gathers in every process, so all must make the same number of them:
see `equal_shares` in `update.py`. Gradients are sent after every backward pass; kept until the last
one, they would be kept whole.
"""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from llama_factory.core.errors import ConfigError
from llama_factory.core.sentences import kind_of_sentence
from llama_factory.training.optimizers import OPTIMIZERS
from llama_factory.training.parallel import PARALLELS, Parallel

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.adapters import Adapter

IN_PARTS = ("adamw", "sgd", "muon")
"""Optimizers that keep of a weight what has its shape, and so can be divided as it is."""
DIMENSION = "data_parallel"
"""Lightning's name of the axis along which processes see other rows."""
NOT_PACKED = kind_of_sentence(
    "settings.not_packed",
    "training.parallel: fsdp and packed weights (adapter qlora, or a quantised base model) exclude "
    "each other: parts of packed weights lose how they were packed. Use adapter lora with fsdp, or "
    "packed weights with parallel: ddp, where each GPU holds the packed model.",
)
NOT_IN_PLACE = (
    "training.parallel.whole: false and what looks at weights that train exclude each other: "
    "strategies but replay, anchor and freeze, and the objective asft. Leave these out, or whole."
)
NOT_IN_FLOAT16 = kind_of_sentence(
    "settings.not_in_float16",
    "training.parallel: fsdp and model.dtype: float16 exclude each other: the loss of float16 is "
    "scaled, and nobody has shown that to be right with parts of gradients. Use bfloat16, float32, "
    "or parallel: ddp.",
)
"""Also where model.dtype: auto comes to float16, as on older GPUs."""
OFFLOADS_NOTHING = (
    "training.parallel.offload: cpu saves nothing: %s. It moves the parts of weights that several "
    "processes hold from their GPUs to main memory."
)

logger = logging.getLogger(__name__)


STATE_NOT_DIVIDED = kind_of_sentence(
    "settings.state_not_divided",
    "training.parallel: fsdp and training.optimizer: {optimizer} exclude each other: what it "
    "keeps of a weight cannot be divided as the weight is. Use {others}, whose state each "
    "process holds a part of.",
)
NOT_ALIKE = kind_of_sentence(
    "settings.not_alike",
    "training.parallel: fsdp and training.{name}: true exclude each other: all processes must "
    "compute alike. Leave {name} out.",
)


@PARALLELS.register("fsdp")
class Fsdp(Parallel):
    """Each of N processes holds 1/N of weights, gradients and optimizer state."""

    shards: ClassVar[bool] = True

    reshard: bool = True
    """Let go of a layer's whole weights after its forward pass and gather them again for its
    backward pass. `false` sends less and holds all weights once more (as ZeRO-2)."""
    whole: bool = True
    """Before and after the training each process holds the whole model once, for tests of answers
    and for strategies that look at weights. `false` leaves the base model in its files, reads each
    process's parts from there, and does without these: for models that no process has room for."""
    offload: Literal["none", "cpu"] = "none"
    """Where a process keeps its parts of weights, gradients and optimizer state. `cpu`: in main
    memory, where the optimizer steps too; a layer's weights go to the GPU for the moment in which
    it computes. Much slower, and a GPU then holds activations and the layers at work alone."""

    @property
    def in_place(self) -> bool:
        """See `Parallel.in_place`."""
        from llama_factory.training.processes import current

        return not self.whole and current().are_several

    @property
    def offloads(self) -> bool:
        """See `Parallel.offloads`."""
        return self.offload == "cpu"

    def conflicts(self, adapter: "Adapter", dtype: str, training: Any) -> Iterator[str]:
        """See `Parallel.conflicts`."""
        yield from super().conflicts(adapter, dtype, training)
        if getattr(adapter, "bits", None):
            yield NOT_PACKED()
        if dtype == "float16":
            yield NOT_IN_FLOAT16()
        optimizer = OPTIMIZERS.name_of(training.optimizer)
        if optimizer not in IN_PARTS:
            yield STATE_NOT_DIVIDED(optimizer=optimizer, others=", ".join(IN_PARTS))
        for name in ("compile", "share_prefixes"):
            if getattr(training, name) is True:
                yield NOT_ALIKE(name=name)

    def open(self, model: "AdaptedModel") -> "Fabric":
        """See `Parallel.open`.

        Raises:
            ConfigError: the model computes in float16.
        """
        from lightning_fabric.strategies import ModelParallelStrategy

        from llama_factory.training.fabrics import alone, together
        from llama_factory.training.processes import current

        count = current().count
        if count == 1:
            if self.offloads:
                logger.warning(OFFLOADS_NOTHING, "this is one process")
            return alone(model)
        if model.precision.name == "float16":
            raise ConfigError(NOT_IN_FLOAT16())
        # sizes that are left to Lightning mean tensor parallelism on one machine
        strategy = ModelParallelStrategy(
            _as_it_is, data_parallel_size=count, tensor_parallel_size=1
        )
        return together(model, strategy, in_place=self.in_place)

    def place(
        self, fabric: "Fabric", kernels: "nn.Module", *, keeps_trained: bool
    ) -> "tuple[Any, Callable[[], None]]":
        """See `Parallel.place`.

        Raises:
            ConfigError: the base model is packed, or weights that stay in their files are needed.
        """
        from llama_factory.model.layers import causal_of
        from llama_factory.model.unsharding import undoing
        from llama_factory.training.processes import current

        processes, strategy = current(), cast("Any", fabric.strategy)
        if not processes.are_several:
            return super().place(fabric, kernels, keeps_trained=keeps_trained)
        if self.in_place and keeps_trained:
            raise ConfigError(NOT_IN_PLACE)
        if getattr(causal_of(kernels.network), "is_quantized", False):
            raise ConfigError(NOT_PACKED())
        undo = undoing(kernels, in_place=self.in_place, writes=processes.is_first)
        if self.offloads and fabric.device.type == "cpu" and processes.is_first:
            logger.warning(OFFLOADS_NOTHING, "these processes compute in main memory")
        self._shard(kernels, strategy.device_mesh[DIMENSION], keeps_trained)
        # sharding has moved what is not offloaded
        return fabric.setup_module(kernels, move_to_device=not self.offloads), undo

    def let_go(self, module: Any) -> None:
        """See `Parallel.let_go`: else weights outside of layers stay whole, and pass for parts."""
        from torch.distributed.fsdp import FSDPModule

        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()

    def finish_gradients(self, model: "AdaptedModel") -> None:
        """See `Parallel.finish_gradients`: those of weights that all keep are not sent yet."""
        from llama_factory.model.sharding import is_part, is_sharded
        from llama_factory.training.processes import current

        if not is_sharded(model.network):
            return
        kept = [weight for weight in model.trainable().values() if not is_part(weight)]
        for weight in kept:
            if weight.grad is None:
                weight.grad = weight.new_zeros(weight.shape)
        gradients = [weight.grad for weight in kept if weight.grad is not None]
        if gradients:
            processes = current()
            for gradient, total in zip(gradients, processes.add_up(gradients), strict=True):
                gradient.copy_(total / processes.count)

    def _shard(self, kernels: "nn.Module", mesh: "DeviceMesh", keeps_trained: bool) -> None:
        """Each layer is a group that is gathered at once; the rest is one more."""
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        from llama_factory.model.layers import repeated_blocks
        from llama_factory.model.sharding import remember_root

        network: Any = kernels.network
        trained = {each for each in network.parameters() if each.requires_grad}
        pins = mesh.device_type == "cuda"
        options: dict[str, Any] = {
            "mesh": mesh,
            "ignored_params": trained if keeps_trained else set(),
            "offload_policy": CPUOffloadPolicy(pin_memory=pins)
            if self.offloads
            else OffloadPolicy(),
        }
        for block in repeated_blocks(network)[1]:
            fully_shard(block, reshard_after_forward=self.reshard, **options)
        # heads read embeddings and output weights outside of the network's own forward pass
        fully_shard(kernels, reshard_after_forward=False, **options)
        remember_root(network, kernels)


def _as_it_is(module: "nn.Module", _: "DeviceMesh") -> "nn.Module":
    """It was sharded before: which weights stay whole depends on the run."""
    return module
