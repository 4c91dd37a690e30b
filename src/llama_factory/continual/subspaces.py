"""Parts of one LoRA adapter that belong to different rounds: rows of A with the columns of B."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llama_factory.continual.low_rank import LowRankLayer, low_rank_layers, other_names, overlap
from llama_factory.core.errors import ConfigError
from llama_factory.model.adapted import AdaptedModel


@dataclass(frozen=True)
class Subspace:
    """The part of one layer's product that a round trains.

    Attributes:
        name: of the weight A.
        a: [rank, in], being trained.
        b: [out, rank], being trained.
        own: rows of A and columns of B that belong to this round.
        earlier: [ranks of earlier rounds, in] their rows of A; None where there are none.
        a_start: A before the first step.
        b_start: B before the first step.
    """

    name: str
    a: Tensor
    b: Tensor
    own: slice
    earlier: Tensor | None
    a_start: Tensor
    b_start: Tensor

    def overlap(self) -> Tensor | None:
        """What this round's directions share with those of earlier rounds."""
        return None if self.earlier is None else overlap(self.a[self.own], self.earlier)

    def of(self, weight: Tensor, dim: int) -> Tensor:
        """[as the weight] 1 at this round's part, else 0."""
        mask = torch.zeros_like(weight, requires_grad=False)
        mask.narrow(dim, self.own.start, self.own.stop - self.own.start).fill_(1)
        return mask

    def mask_gradients(self) -> None:
        """Leave a gradient to this round's part only."""
        for weight, dim in ((self.a, 0), (self.b, 1)):
            if weight.grad is not None:
                for part in self._others(weight.grad, dim):
                    part.zero_()

    def hold_others(self) -> None:
        """Put all other parts back to what they were, bit for bit."""
        pairs = ((self.a, self.a_start, 0), (self.b, self.b_start, 1))
        for weight, start, dim in pairs:
            parts = zip(self._others(weight.data, dim), self._others(start, dim), strict=True)
            for part, before in parts:
                part.copy_(before)

    def _others(self, weight: Tensor, dim: int) -> Iterator[Tensor]:
        """Views of what comes before and after this round's part."""
        yield weight.narrow(dim, 0, self.own.start)
        yield weight.narrow(dim, self.own.stop, weight.shape[dim] - self.own.stop)


def plain_layers(model: AdaptedModel) -> list[LowRankLayer]:
    """The layers with a trained LoRA product.

    Raises:
        ConfigError: something else trains too, which has no parts for rounds.
    """
    layers = low_rank_layers(model)
    others = other_names(model, layers)
    if others or not layers:
        what = others[0] if others else "no LoRA product at all"
        raise ConfigError(
            f"strategies.olora: it needs a plain LoRA adapter, and here {what} trains. Use "
            "model.adapter type lora or qlora, without use_dora, init or modules_to_save."
        )
    return list(layers.values())


def require_room(b: Tensor, own: slice) -> None:
    """Make sure that a round's part of the adapter exists and is free of earlier knowledge.

    Raises:
        ConfigError: it is not; the message says what would fit.
    """
    total, used = b.shape[1], own.start
    if own.stop > total:
        lower = f"Lower strategies.olora.rank to at most {total - used}" if used < total else ""
        raise ConfigError(
            f"strategies.olora.rank: a round takes {own.stop - used} ranks of the adapter, and "
            f"{used} of its {total} belong to earlier rounds. {lower or 'Leave olora out'}, or "
            "begin a fresh adapter: llama-factory consolidate."
        )
    if b[:, used:].any():
        raise ConfigError(
            f"strategies.olora: ranks {used + 1} to {total} of the parent's adapter were trained "
            "without olora already, so no room is left that is free of earlier knowledge. Leave "
            "olora out, or begin a fresh adapter: llama-factory consolidate."
        )


def require_kept(name: str, a: Tensor, earlier: Tensor) -> None:
    """Make sure that the adapter still holds the directions of earlier rounds.

    Raises:
        ConfigError: it was changed since.
    """
    if not torch.equal(a[: len(earlier)], earlier):
        raise ConfigError(
            f"strategies.olora: {name} no longer holds the directions that earlier rounds learned "
            "in: the adapter was merged or changed otherwise. Leave olora out, or go back to the "
            "version before (llama-factory rollback)."
        )
