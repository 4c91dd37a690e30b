"""Weights that have other values for as long as a forward pass takes: no second model."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn


@contextlib.contextmanager
def exchanged(weights: Sequence[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Weights with other values, to which nothing may write meanwhile."""
    now = [weight.data for weight, _ in weights]
    try:
        for weight, value in weights:
            weight.data = value
        yield
    finally:
        for (weight, _), value in zip(weights, now, strict=True):
            weight.data = value


@contextlib.contextmanager
def at_rest(network: nn.Module, *, is_random: bool) -> Iterator[None]:
    """The network without dropout, where it has some and is training."""
    if not (network.training and is_random):
        yield
        return
    network.eval()
    try:
        yield
    finally:
        network.train()
