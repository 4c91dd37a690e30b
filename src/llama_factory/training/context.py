"""Which processes compute a sequence together, and what they cannot do then."""

from typing import Any

from torch import distributed

from llama_factory.core.errors import ConfigError
from llama_factory.model.shared_sequences import SharedSequences, Sharers
from llama_factory.training.processes import current

NOT_SHARED = (
    "training.parallel.context: %s. Leave context out: then each process computes whole sequences."
)


def share_sequences(network: Any, size: int, *, reads_weights: bool) -> SharedSequences | None:
    """Let so many processes each compute a part of every sequence; None where each computes whole.

    Every process must ask, before weights are sharded.

    Args:
        network: that will train.
        size: `training.parallel.context`.
        reads_weights: strategies or the objective make passes of their own.

    Raises:
        ConfigError: the processes cannot be divided so, or the network cannot be computed so.
    """
    if size == 1:
        return None
    processes = current()
    if processes.count % size:
        raise ConfigError(
            f"training.parallel.context: {size} processes are to compute each sequence, and there "
            f"are {processes.count}. Start a multiple of {size} (NPROC_PER_NODE), or set context "
            "to a divisor of it."
        )
    if reads_weights:
        raise ConfigError(
            NOT_SHARED % "strategies but replay, anchor and freeze make passes of their own over "
            "whole sequences"
        )
    shared = SharedSequences(network, _sharers(processes.rank, processes.count, size))
    network.eval()
    if not shared.sees_whole() or not all(processes.gather(shared.is_exact())):
        raise ConfigError(
            NOT_SHARED % "this model's layers need more of a sequence than keys and values of its "
            "earlier tokens (a window, or positions of another kind)"
        )
    return shared


def _sharers(rank: int, count: int, size: int) -> Sharers:
    """Neighbours share: every process must make every group."""
    groups = [
        distributed.new_group(list(range(start, start + size))) for start in range(0, count, size)
    ]
    return Sharers(rank % size, size, groups[rank // size])
