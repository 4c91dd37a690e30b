"""What a training run is made of, built once: network, optimizer, precision, processes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor, nn

from llama_factory.core.errors import ConfigError
from llama_factory.model.acceleration import use_liger
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.quick.network import QuickNetwork
from llama_factory.model.shared_prefix import SharedPrefix
from llama_factory.model.shared_sequences import SharedSequences
from llama_factory.training.batch import BatchOptions
from llama_factory.training.context import share_sequences
from llama_factory.training.kept_states import KeptStates
from llama_factory.training.neftune import EmbeddingNoise
from llama_factory.training.objectives import OBJECTIVES, MicroBatch, Objective
from llama_factory.training.objectives.sft import PLAIN
from llama_factory.training.optimizers import WeightGroup
from llama_factory.training.processes import Processes, current
from llama_factory.training.settings import TrainingSettings
from llama_factory.training.strategy import STRATEGIES, Costs, Protection, RunState, Strategy

LORA_B = "lora_B"


@dataclass
class Run:
    """Everything an update needs.

    Attributes:
        fabric: carries devices and precision.
        module: objective, tokens and targets -> what the objective looks at.
        optimizer: over the trained weights.
        model: being trained.
        settings: of the run.
        protection: strategies and what they remember.
        states: what each strategy keeps while the run goes on, in their order.
        costs: of the strategies' hooks.
        noise: on the embeddings, where asked for.
        prefix: what sequences begin with in common is read once.
        quick: sequences are read end to end, by layers of few operations.
        max_tokens: of a micro-batch; it shrinks where memory runs out.
        processes: that share every update.
        make_whole: after training, gives every process the whole model.
        sequences: of which each process computes a part, where they share them.
        kept: what the objective keeps of the updates so far.
        row_states: states of rows behind frozen layers, where they are kept.
    """

    fabric: Fabric
    module: Any
    optimizer: Any
    model: AdaptedModel
    settings: TrainingSettings
    protection: Protection
    states: tuple[RunState, ...]
    costs: Costs
    noise: EmbeddingNoise
    prefix: SharedPrefix
    quick: QuickNetwork
    max_tokens: int
    processes: Processes
    make_whole: Callable[[], None]
    sequences: SharedSequences | None = None
    kept: Mapping[str, float] = field(default_factory=dict)
    row_states: KeptStates | None = None

    @property
    def share(self) -> int:
        """Which part of an update this process computes; sharers of sequences have the same one."""
        return self.processes.rank // self.settings.parallel.context

    @property
    def num_shares(self) -> int:
        """In how many parts processes divide an update."""
        return self.processes.count // self.settings.parallel.context

    @property
    def counts_losses(self) -> bool:
        """Whether what this process computes counts: of those that compute the same, one's does."""
        return self.processes.rank % self.settings.parallel.context == 0

    def strategies(self) -> Iterator[tuple[Strategy, RunState]]:
        """Each strategy with its state; the time spent on each is counted."""
        return zip(self.costs.each(self.protection.strategies), self.states, strict=True)

    def counts(self) -> dict[str, dict[str, float]]:
        """What each strategy counted so far, by its name."""
        names = map(STRATEGIES.name_of, self.protection.strategies)
        return {name: each.counts for name, each in zip(names, self.states, strict=True)}

    def reading(self) -> AbstractContextManager[None]:
        """Read micro-batches in the quickest way that this network allows."""
        if self.sequences is not None:
            return self.sequences.on()
        return self.quick.on() if self.quick.is_possible else self.prefix.on()

    def num_read(self, micro: MicroBatch) -> int:
        """How many tokens go through the model for a micro-batch, padding included."""
        if self.quick.is_possible:
            return self.quick.num_read(micro.ids, micro.targets)
        return self.prefix.num_read(micro.ids)

    def batch_options(self, weights: Mapping[str, float]) -> BatchOptions:
        """How an update is cut to what fits into memory at once, and weighed.

        Args:
            weights: share of the loss of sources whose share of the rows is another one.
        """
        return BatchOptions(
            self.max_tokens,
            self.settings.micro_batch_size,
            self.settings.weighting,
            weights,
            fewest=self.num_shares,
            shares_prefixes=self.shares_prefixes,
            is_end_to_end=self.quick.is_possible,
        )

    @property
    def shares_prefixes(self) -> bool:
        """Whether micro-batches that begin alike are cheaper now."""
        return self.quick.shares if self.quick.is_possible else self.prefix.is_on


def start(model: AdaptedModel, settings: TrainingSettings, protection: Protection) -> Run:
    """Prepare model and strategies, and put the model and its optimizer on the device."""
    costs = Costs()
    settings.objective.prepare(model)
    memory, strategies = protection.memory, protection.strategies
    states = tuple([strategy.prepare(model, memory) for strategy in costs.each(strategies)])
    # all have seen the parent's weights before any of them moves these
    for strategy, state in zip(costs.each(strategies), states, strict=True):
        strategy.begin(model, memory, state)
    if settings.liger_kernel:
        use_liger(model.network)
    parallel = settings.parallel
    fabric = parallel.open(model)
    reads = settings.objective.reads_weights or any(each.reads_weights for each in strategies)
    shared = share_sequences(model.network, parallel.context, reads_weights=reads)
    kernels = Kernels(model, settings.objective, has_old_rows=bool(strategies), shared=shared)
    module, make_whole = parallel.place(fabric, kernels, keeps_trained=reads)
    # sharding replaces the weights, so the optimizer comes after it
    optimizer = fabric.setup_optimizers(settings.optimizer.build(weight_groups(model, settings)))
    model.network.train()
    device = model.device.type
    shares = settings.shares_prefixes(device)
    is_quick = settings.uses_quick_layers(device) and _computes_as_stored(model)
    is_quick = is_quick and not parallel.reads_plainly
    quick = QuickNetwork(model.network, is_wanted=is_quick, shares=shares)
    return Run(
        fabric=fabric,
        module=module,
        optimizer=optimizer,
        model=model,
        settings=settings,
        protection=protection,
        states=states,
        costs=costs,
        noise=EmbeddingNoise(settings.neftune_alpha),
        prefix=SharedPrefix(model.network, is_wanted=shares),
        quick=quick,
        max_tokens=most_tokens(settings, device, is_quick=quick.is_possible),
        processes=current(),
        make_whole=make_whole,
        sequences=shared,
    )


def _computes_as_stored(model: AdaptedModel) -> bool:
    """Whether products are in the number format of the weights that they read."""
    weight = model.network.get_input_embeddings().weight
    return not model.precision.is_mixed or bool(weight.dtype == model.precision.dtype)


def most_tokens(settings: TrainingSettings, device: str, *, is_quick: bool = False) -> int:
    """Tokens that are computed at once on a type of device, padding included.

    Args:
        settings: of the run.
        device: `cpu` or `cuda`.
        is_quick: whether layers are quick ones, which keep about half as much of each token.
    """
    on_cpu = 1024 if is_quick else 512
    return settings.micro_batch_tokens or (16384 if device == "cuda" else on_cpu)


class Kernels(nn.Module):
    """A network's forward pass for each objective, as the one module that Fabric carries.

    Args:
        model: the network to train.
        objective: of the run.
        has_old_rows: rows of other sources may be taught, in the plain way.
        shared: processes compute a part of each sequence.
    """

    def __init__(
        self,
        model: AdaptedModel,
        objective: Objective,
        *,
        has_old_rows: bool = False,
        shared: SharedSequences | None = None,
    ) -> None:
        super().__init__()
        self.network = model.network
        self._shared = shared
        # in a plain dict, so that the network's weights are registered once
        self._kernels = {OBJECTIVES.name_of(objective): objective.kernel(model)}
        plain = OBJECTIVES.name_of(PLAIN)
        if has_old_rows and plain not in self._kernels:
            self._kernels[plain] = PLAIN.kernel(model)

    def forward(self, objective: str, ids: Tensor, targets: Tensor) -> Tensor:
        """What the objective of that name looks at, see `ForwardPass.outputs`."""
        kernel = self._kernels[objective]
        if self._shared is not None:
            return self._shared.outputs(kernel, ids, targets)
        outputs: Tensor = kernel(ids, targets)
        return outputs


def weight_groups(model: AdaptedModel, settings: TrainingSettings) -> list[WeightGroup]:
    """The trained weights by how they are treated.

    Only matrices decay: pulling norms and biases towards zero protects against nothing. With
    LoRA+ (Hayou et al. 2024, https://arxiv.org/abs/2402.12354) the B matrices of LoRA learn
    `loraplus_ratio` times faster, since they start at zero.

    Raises:
        ConfigError: LoRA+ is asked for and there is no LoRA.
    """
    tables = _tables(model.network)
    kinds: dict[tuple[float, float, bool], dict[str, nn.Parameter]] = {}
    trained = model.trainable()
    ratio = _ratio(trained, settings)
    for name, weight in trained.items():
        factor = ratio if LORA_B in name else 1.0
        decay = settings.weight_decay if weight.ndim > 1 else 0.0
        is_matrix = weight.ndim == 2 and id(weight) not in tables
        kinds.setdefault((factor, decay, is_matrix), {})[name] = weight
    return [
        WeightGroup(
            [*named.values()], settings.learning_rate, factor, decay, is_matrix, tuple(named)
        )
        for (factor, decay, is_matrix), named in kinds.items()
    ]


def _ratio(names: Iterable[str], settings: TrainingSettings) -> float:
    if settings.loraplus_ratio is None:
        return 1.0
    if not any(LORA_B in name for name in names):
        raise ConfigError(
            f"training.loraplus_ratio: {settings.loraplus_ratio} is a rate for LoRA's B matrices "
            "and this model trains none. Set model.adapter to lora, or remove the key."
        )
    return settings.loraplus_ratio


def _tables(network: Any) -> set[int]:
    """Embeddings and output head: matrices by shape, but tables with a row for each token."""
    inside = (m for m in network.modules() if isinstance(m, nn.Embedding))
    tables = [*inside, network.get_output_embeddings()]
    return {id(weight) for table in tables if table is not None for weight in table.parameters()}
