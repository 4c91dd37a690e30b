"""A network whose rows are read end to end, layer by layer in few operations, where it can be."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast

from llama_factory.model.layers import backbone_of, causal_of, has_dropout, repeated_blocks
from llama_factory.model.padding import IGNORED
from llama_factory.model.quick.layer import (
    PassContext,
    block_of,
    is_known,
    linear_modules,
    run,
)
from llama_factory.model.quick.layout import RowLayout, end_to_end
from llama_factory.model.quick.trial import layers_agree
from llama_factory.model.quick.trunk import RowStates

CHILDREN = {"embed_tokens", "layers", "norm", "rotary_emb"}
TOLERANCE = 2e-3
"""Largest difference of the states of made-up rows, as a fraction of the largest state."""
HALF = (torch.bfloat16, torch.float16)
HALF_TOLERANCE = 0.5
"""The same by norms, where states are rounded in each of many layers: 0.12 with SmolLM2 in bfloat16
and an adapter that was taught; layers alone are compared in float32."""

_thread = threading.local()
"""Its `lengths` are those of the rows that each thread reads."""


@contextmanager
def of_lengths(targets: Tensor) -> Iterator[None]:
    """Say how long the rows of the forward passes inside are: one token beyond the last trained.

    Args:
        targets: [rows, seq] of the micro-batch, IGNORED where nothing is predicted.
    """
    outer = getattr(_thread, "lengths", None)
    _thread.lengths = row_lengths(targets)
    try:
        yield
    finally:
        _thread.lengths = outer


def row_lengths(targets: Tensor) -> list[int]:
    """[rows] tokens of each row: the last trained token is the last that matters."""
    places = torch.arange(1, targets.shape[1] + 1, device=targets.device)
    last = torch.where(targets != IGNORED, places, 0).amax(1)
    return (last + 1).clamp(max=targets.shape[1]).tolist()


class QuickNetwork:
    """A network's way to read micro-batches end to end, where its layers are of a known kind.

    Args:
        network: the one that trains.
        is_wanted: whether to do so at all.
        shares: whether what rows begin with in common is read once.

    Attributes:
        trunk: gives the states behind the lowest layers, which are then not computed here.
    """

    def __init__(self, network: Any, *, is_wanted: bool, shares: bool) -> None:
        self._backbone = backbone_of(network)
        self.trunk: RowStates | None = None
        self.shares = shares
        is_possible = is_wanted and is_known_kind(network) and _has_plain_weights(network)
        self.is_possible = is_possible and self._is_exact()
        blocks = repeated_blocks(self._backbone)[1] if self.is_possible else ()
        self._linear = [each for layer in blocks for each in linear_modules(layer)]
        modules = causal_of(network).modules()
        self._may_recompute = [each for each in modules if hasattr(each, "gradient_checkpointing")]

    def num_read(self, ids: Tensor, targets: Tensor) -> int:
        """How many tokens go through the layers for these rows.

        Args:
            ids: [rows, seq] token ids.
            targets: [rows, seq].
        """
        return len(end_to_end(ids, row_lengths(targets), shares=self.shares).ids)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Read so in the forward passes of the network's backbone inside the context."""
        if not self.is_possible:
            yield
            return
        whole = self._backbone.forward

        def forward(*args: Any, **options: Any) -> Any:
            if args or options.keys() - {"input_ids", "use_cache"} or not self._is_bare():
                return whole(*args, **options)
            ids = options["input_ids"]
            lengths = getattr(_thread, "lengths", None) or [ids.shape[1]] * len(ids)
            return BaseModelOutputWithPast(last_hidden_state=self._read(ids, lengths))

        self._backbone.forward = forward
        try:
            yield
        finally:
            del self._backbone.forward

    def _is_bare(self) -> bool:
        """Whether nobody wants to see what goes through a linear layer."""
        return not any(each._forward_hooks or each._forward_pre_hooks for each in self._linear)

    def _read(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """[rows, seq, width] states; anything where there is padding."""
        layout = end_to_end(ids, lengths, shares=self.shares)
        backbone = self._backbone
        layers = list(backbone.layers)[self.trunk.num_layers if self.trunk else 0 :]
        with torch.autocast(ids.device.type, enabled=False):
            hidden = self._entering(layout, ids, lengths)
            rotary = backbone.rotary_emb
            reading = PassContext.of(rotary, hidden, layout.positions, layout.stretches)
            is_recomputed = any(each.gradient_checkpointing for each in self._may_recompute)
            for layer in layers:
                block = block_of(layer)
                if is_recomputed and torch.is_grad_enabled():
                    hidden = checkpoint(run, hidden, block, reading, use_reentrant=False)
                else:
                    hidden = run(hidden, block, reading)
            hidden = backbone.norm(hidden)
        return hidden.index_select(0, layout.places.flatten()).view(*ids.shape, -1)

    def _entering(self, layout: RowLayout, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """[tokens, width] what the first layer reads that is computed here."""
        if self.trunk is None:
            embedded: Tensor = self._backbone.embed_tokens(layout.ids[None])[0]
            return embedded
        rows = [tuple(row[:size]) for row, size in zip(ids.tolist(), lengths, strict=True)]
        states = zip(self.trunk.states(rows), layout.sizes, strict=True)
        return torch.cat([each[len(each) - size :] for each, size in states])

    @torch.no_grad()
    def _is_exact(self) -> bool:
        """Whether states are those of the network's own layers; tried out."""
        backbone = self._backbone
        vocabulary = backbone.config.get_text_config().vocab_size
        device = next(backbone.parameters()).device
        ids = torch.arange(4, 52, device=device).reshape(2, 24) % vocabulary
        ids[1, :18] = ids[0, :18]
        lengths = [24, 21]
        whole = backbone(input_ids=ids, use_cache=False).last_hidden_state
        self._may_recompute = []
        ours = self._read(ids, lengths)
        both = zip(whole.float(), ours.float(), lengths, strict=True)
        differences = torch.cat([(a[:n] - b[:n]).flatten() for a, b, n in both])
        if whole.dtype in HALF:
            is_near = differences.norm() <= HALF_TOLERANCE * whole.float().norm()
            return bool(is_near) and layers_agree(backbone, ids, TOLERANCE)
        return bool(differences.abs().max() <= TOLERANCE * whole.abs().max())


def is_known_kind(network: Any) -> bool:
    """Whether a network's layers are of a known kind, and its rows may be read end to end.

    What they compute is still to be tried.
    """
    backbone = backbone_of(network)
    adapter = getattr(network, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False) or has_dropout(network):
        return False
    if {name for name, _ in backbone.named_children()} != CHILDREN:
        return False
    config = backbone.config.get_text_config()
    if getattr(config, "sliding_window", None) is not None or _is_stretched(backbone.rotary_emb):
        return False
    return all(is_known(layer) for layer in backbone.layers)


def _has_plain_weights(network: Any) -> bool:
    """Whether no weight is a part of one that processes share, or packed bits."""
    return all(type(weight) is torch.nn.Parameter for weight in network.parameters())


def _is_stretched(rotary: Any) -> bool:
    """Whether positions depend on the longest row of a pass."""
    kind = getattr(rotary, "rope_type", "")
    return not isinstance(kind, str) or "dynamic" in kind or kind == "longrope"
