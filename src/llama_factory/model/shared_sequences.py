"""Sequences of which each of several processes computes a part, with the attention of whole ones.

Keys and values of a layer are gathered from all, so every token sees all that come before it. Each
process has an early and a late part of a sequence: together they see as much as those of others.
Dubey et al. 2024, section 3.3.2, https://arxiv.org/abs/2407.21783
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface

from llama_factory.model.layers import backbone_of
from llama_factory.model.padding import IGNORED

GATHERED = "gathered"
"""Our name of the attention, for Transformers."""
PARTS = 2
"""Of a sequence, for each process."""


@dataclass(frozen=True)
class Sharers:
    """The processes that compute a sequence together, as one of them sees them.

    Attributes:
        rank: which of them this one is.
        count: how many they are.
        group: theirs, as torch knows it.
    """

    rank: int
    count: int
    group: Any = None

    def places(self, num_tokens: int, rank: int, device: torch.device) -> Tensor:
        """[own tokens] where in a sequence the tokens of one of them stand."""
        size = num_tokens // (PARTS * self.count)
        early, late = rank * size, self._late(rank) * size
        starts = (torch.arange(start, start + size, device=device) for start in (early, late))
        return torch.cat(list(starts))

    def whole(self, own: Tensor) -> Tensor:
        """The whole sequences, in the order of their tokens.

        Args:
            own: [sequences, heads, own tokens, width].
        """
        pieces = [torch.empty_like(own, memory_format=torch.contiguous_format)]
        pieces += [torch.empty_like(pieces[0]) for _ in range(self.count - 1)]
        distributed.all_gather(pieces, own.contiguous(), self.group)
        halves = [piece.chunk(PARTS, 2) for piece in pieces]
        return torch.cat([early for early, _ in halves] + [late for _, late in halves[::-1]], 2)

    def own_sum(self, whole: Tensor) -> Tensor:
        """This process's part of the sum over all of them."""
        total = whole.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total, group=self.group)
        parts = total.chunk(PARTS * self.count, 2)
        return torch.cat([parts[self.rank], parts[self._late(self.rank)]], 2)

    def ends(self, num_own: int) -> tuple[int, int]:
        """Where in a sequence its two parts end, in tokens."""
        size = num_own // PARTS
        return (self.rank + 1) * size, (self._late(self.rank) + 1) * size

    def _late(self, rank: int) -> int:
        return PARTS * self.count - 1 - rank


class SharedSequences:
    """A network's way to compute a part of each sequence.

    Args:
        network: the one that trains.
        sharers: who computes the other parts.
    """

    def __init__(self, network: Any, sharers: Sharers) -> None:
        self._backbone = backbone_of(network)
        self._sharers = sharers

    @contextmanager
    def on(self) -> Iterator[None]:
        """Passes of the backbone, forward and backward, are of parts inside the context."""
        config = self._backbone.config.get_text_config()
        AttentionInterface.register(GATHERED, self._attend)
        AttentionMaskInterface.register(GATHERED, _no_mask)
        usual = config._attn_implementation
        hook = self._backbone.register_forward_pre_hook(self._place, with_kwargs=True)
        config._attn_implementation = GATHERED
        try:
            yield
        finally:
            config._attn_implementation = usual
            hook.remove()

    def outputs(
        self, kernel: Callable[[Tensor, Tensor], Tensor], ids: Tensor, targets: Tensor
    ) -> Tensor:
        """What a kernel gives for whole sequences, computed by all in parts.

        Args:
            kernel: gives something for each trained token.
            ids: [sequences, seq] token ids, padded on the right.
            targets: [sequences, seq] what each position must predict, IGNORED where nothing.
        """
        missing = -ids.shape[1] % (PARTS * self._sharers.count)
        ids, targets = F.pad(ids, (0, missing)), F.pad(targets, (0, missing), value=IGNORED)
        places = self._places_of(ids, self._sharers.rank)
        own = kernel(ids[:, places], targets[:, places])
        counts, order = self._order(targets)
        joined: Tensor = _Joined.apply(own, counts, self._sharers)  # type: ignore[no-untyped-call]
        return joined[order]

    @torch.no_grad()
    def is_exact(self) -> bool:
        """Whether this architecture's states are the same when computed in parts; tried out."""
        config = self._backbone.config.get_text_config()
        device = next(self._backbone.parameters()).device
        num_tokens = 4 * PARTS * self._sharers.count
        ids = torch.arange(2 * num_tokens, device=device).reshape(2, -1) % config.vocab_size
        places = self._places_of(ids, self._sharers.rank)
        whole = self._backbone(input_ids=ids, use_cache=False).last_hidden_state[:, places]
        with self.on():
            own = self._backbone(input_ids=ids[:, places], use_cache=False).last_hidden_state
        return torch.allclose(whole.float(), own.float(), rtol=1e-2, atol=1e-2)

    def sees_whole(self) -> bool:
        """Whether every layer sees all earlier tokens: no window, and no other memory of them."""
        config = self._backbone.config.get_text_config()
        kinds = getattr(config, "layer_types", None) or ["full_attention"]
        return getattr(config, "sliding_window", None) is None and {*kinds} == {"full_attention"}

    def _places_of(self, ids: Tensor, rank: int) -> Tensor:
        return self._sharers.places(ids.shape[1], rank, ids.device)

    def _order(self, targets: Tensor) -> tuple[list[int], Tensor]:
        """How many trained tokens each process has, and where a sequence's own lie among them."""
        numbers = torch.arange(targets.numel(), device=targets.device).view_as(targets)
        found = []
        for rank in range(self._sharers.count):
            places = self._places_of(targets, rank)
            found.append(numbers[:, places][targets[:, places] != IGNORED])
        return [len(each) for each in found], torch.cat(found).argsort()

    def _place(self, _: Any, args: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Tell a pass of own tokens where in their sequences they stand."""
        ids = options["input_ids"]
        num_tokens = ids.shape[1] * self._sharers.count
        places = self._sharers.places(num_tokens, self._sharers.rank, ids.device)
        return args, {**options, "position_ids": places[None]}

    def _attend(  # noqa: PLR0913 - as Transformers calls it
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Attention of own queries [sequences, heads, own tokens, width] to all earlier keys."""
        keys, values = _Gathered.apply(key, value, self._sharers)  # type: ignore[no-untyped-call]
        found = []
        ends = self._sharers.ends(query.shape[2])
        for part, end in zip(query.chunk(PARTS, 2), ends, strict=True):
            found.append(
                F.scaled_dot_product_attention(
                    part,
                    keys[:, :, :end],
                    values[:, :, :end],
                    # the last queries see all keys before them; GPU kernels need no mask for it
                    attn_mask=causal_lower_right(part.shape[2], end),
                    dropout_p=dropout if module.training else 0.0,
                    scale=scaling,
                    enable_gqa=key.shape[1] != query.shape[1],
                )
            )
        return torch.cat(found, 2).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Places tell what a token sees."""


class _Gathered(torch.autograd.Function):
    """Keys and values of all, whose gradients go back to those whose they are.

    Both in one function: gradients are exchanged in the same order everywhere.
    """

    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, sharers: Sharers) -> tuple[Tensor, Tensor]:
        ctx.sharers = sharers
        return sharers.whole(key), sharers.whole(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        key, value = map(ctx.sharers.own_sum, grads)
        return key, value, None


class _Joined(torch.autograd.Function):
    """What each process has of something, one after the other; each gets back its own gradient.

    All go on with the same, so the gradient of the others' parts is known to them.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, counts: Sequence[int], sharers: Sharers) -> Tensor:
        ctx.start, ctx.num_own = sum(counts[: sharers.rank]), counts[sharers.rank]
        padded = own.new_zeros(max(counts), *own.shape[1:])
        padded[: len(own)] = own
        pieces = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(pieces, padded, sharers.group)
        trimmed = zip(pieces, counts, strict=True)
        return torch.cat([piece[:count] for piece, count in trimmed])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0][ctx.start : ctx.start + ctx.num_own], None, None
