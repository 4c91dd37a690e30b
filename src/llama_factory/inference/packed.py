"""A network that reads tokens of many sequences in one pass, as a single row without padding."""

import inspect
import sys
from collections.abc import Sequence as Several
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from llama_factory.inference.attention import Pass, SequencePart, ShelfPart, running
from llama_factory.inference.keys_values import Sequence, Shelf, Shelves, leave
from llama_factory.inference.likeliest import in_float32
from llama_factory.model.layers import causal_of


@dataclass(frozen=True)
class Span:
    """Tokens to be read of one sequence.

    Attributes:
        sequence: which holds what comes before.
        ids: at least one.
        num_last: after how many tokens at the end it is asked what comes next.
    """

    sequence: Sequence
    ids: Several[int]
    num_last: int = 1


class SequenceReader(Protocol):
    """A network that reads on after what sequences hold."""

    context: int
    dtype: torch.dtype
    """Of keys and values."""
    can_take_back: bool
    """Whether a sequence can be made shorter, by its `length`."""

    def begin(self, version: str) -> Sequence:
        """A sequence that holds nothing."""

    def read(self, spans: Several[Span]) -> Tensor:
        """Read tokens; the sequences hold them afterwards.

        Returns:
            [sum of num_last, vocabulary] what the network expects next, in the order of the spans.
        """

    def hidden(self, version: str, ids: Several[int]) -> Tensor:
        """The last hidden states of a text, [tokens, hidden]."""

    def settle(self, sequence: Sequence) -> None:
        """Its prompt is read: from now on it mostly grows by one token a pass."""

    def end(self, sequence: Sequence) -> None:
        """Free what it holds."""


class PackedNetwork:
    """A Transformers network in eval mode for which `can_pack` is true. See `SequenceReader`."""

    can_take_back = True

    def __init__(self, network: Any) -> None:
        self.context = context_tokens(network)
        self.dtype: torch.dtype = network.dtype
        self._network = network
        self._accepted = inspect.signature(causal_of(network).forward).parameters
        self._shelves = Shelves()
        self._windows = tuple(
            getattr(layer, "sliding_window", None) for layer in _cache_layers(network)
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self._network.parameters())).device

    def begin(self, version: str = "") -> Sequence:
        """See `SequenceReader`."""
        return Sequence(version)

    @torch.inference_mode()
    def settle(self, sequence: Sequence) -> None:
        """See `SequenceReader`."""
        self._shelves.settle(sequence, sequence.length + 1)

    @torch.inference_mode()
    def end(self, sequence: Sequence) -> None:
        """See `SequenceReader`."""
        leave(sequence)

    @torch.inference_mode()
    def read(self, spans: Several[Span]) -> Tensor:
        """See `SequenceReader`."""
        order = self._ordered(spans)
        logits = self._run(order, _last_places(spans, order)).logits[0]
        for span in spans:
            span.sequence.length += len(span.ids)
        return torch.as_tensor(logits)

    @torch.inference_mode()
    def hidden(self, version: str, ids: Several[int]) -> Tensor:
        """See `SequenceReader`."""
        sequence = Sequence(version)
        self._shelves.make_room(sequence, len(ids))
        span = Span(sequence, ids)
        out = self._run([span], torch.tensor([len(ids) - 1]), output_hidden_states=True)
        return torch.as_tensor(out.hidden_states[-1][0])

    def _ordered(self, spans: Several[Span]) -> list[Span]:
        """Sequences that share a shelf together, in the order of its rows; then all others."""
        for span in spans:
            self._shelves.make_room(span.sequence, span.sequence.length + len(span.ids))
        single = {id(each.sequence): each for each in spans if len(each.ids) == 1}
        shelves = {id(each.sequence.shelf): each.sequence.shelf for each in spans}
        together: list[Span] = []
        for shelf in shelves.values():
            rows = shelf.sequences if shelf else []
            if all(id(row) in single for row in rows):
                together += [single[id(row)] for row in rows]
        taken = set(map(id, together))
        return [*together, *(span for span in spans if id(span) not in taken)]

    def _run(self, order: Several[Span], keep: Tensor, **more: Any) -> Any:
        """The network's output, with logits after the tokens whose places are in `keep`."""
        ids = torch.tensor([[token for span in order for token in span.ids]])
        places = torch.tensor([[n for span in order for n in _places(span)]])
        keep = keep.to(self.device)
        options = {"position_ids": places.to(self.device), "logits_to_keep": keep}
        what = Pass(_parts(order, self.device), self._windows)
        with running(self._network.config, what), in_float32(self._network):
            out = self._network(
                input_ids=ids.to(self.device),
                use_cache=False,
                **{name: value for name, value in options.items() if name in self._accepted},
                **more,
            )
        if "logits_to_keep" not in self._accepted:
            out.logits = out.logits[:, keep]
        return out


def _places(span: Span) -> range:
    return range(span.sequence.length, span.sequence.length + len(span.ids))


def _parts(order: Several[Span], device: torch.device) -> list[ShelfPart | SequencePart]:
    """The parts of a pass; whole shelves come first, in `_ordered`."""
    parts: list[ShelfPart | SequencePart] = []
    start = number = 0
    while number < len(order):
        span, shelf = order[number], order[number].sequence.shelf
        group = order[number : number + len(shelf.sequences)] if shelf else []
        if shelf and len(shelf.sequences) > 1 and _is_whole(group, shelf):
            lengths = [each.sequence.length for each in group]
            places = torch.tensor(lengths, device=device)
            parts.append(ShelfPart(shelf, start, places, max(lengths) + 1))
            start, number = start + len(group), number + len(group)
            continue
        parts.append(SequencePart(span.sequence, start, len(span.ids)))
        start, number = start + len(span.ids), number + 1
    return parts


def _is_whole(group: Several[Span], shelf: Shelf) -> bool:
    return len(group) == len(shelf.sequences) and all(
        span.sequence is row and len(span.ids) == 1
        for span, row in zip(group, shelf.sequences, strict=True)
    )


def _last_places(spans: Several[Span], order: Several[Span]) -> Tensor:
    """Places in the pass after which logits are wanted, in the order of `spans`."""
    ends, end = {}, 0
    for span in order:
        end += len(span.ids)
        ends[id(span)] = end
    wanted = [n for span in spans for n in range(ends[id(span)] - span.num_last, ends[id(span)])]
    return torch.tensor(wanted, dtype=torch.long)


def context_tokens(network: Any) -> int:
    """How many tokens a network can read; those without a position table name no limit."""
    limit = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    return int(limit or sys.maxsize)


PROBES = ([5, 3, 7, 4, 6, 2, 8, 1, 9], [4, 8, 5])
"""Token ids that show whether a network reads several sequences as it reads each alone."""
TOLERANCE = 2e-2
"""Largest difference of the probes' logits, as a fraction of the largest logit."""


def can_pack(network: Any) -> bool:
    """Whether a network reads packed sequences as it reads each alone: this is tried."""
    adapter = getattr(network, "active_peft_config", None)
    if getattr(adapter, "is_prompt_learning", False) or not _has_plain_cache(network):
        return False
    if _looks_at_length(network):
        return False
    if not getattr(causal_of(network), "_supports_attention_backend", False):
        return False
    reader = PackedNetwork(network)
    sequences = [reader.begin() for _ in PROBES]
    try:
        reader.read([Span(s, p[:-2]) for s, p in zip(sequences, PROBES, strict=True)])
        for sequence in sequences:
            reader.settle(sequence)
        reader.read([Span(s, p[-2:-1]) for s, p in zip(sequences, PROBES, strict=True)])
        ours = reader.read([Span(s, p[-1:]) for s, p in zip(sequences, PROBES, strict=True)])
    except (RuntimeError, TypeError, KeyError, AttributeError, IndexError, ValueError):
        return False
    return all(_is_alike(network, p, row) for p, row in zip(PROBES, ours, strict=True))


@torch.inference_mode()
def _is_alike(network: Any, prompt: list[int], logits: Tensor) -> bool:
    ids = torch.tensor([prompt], device=logits.device)
    alone = network(input_ids=ids, use_cache=False).logits[0, -1].float()
    difference = (alone - logits.float()).abs().max()
    return bool(difference <= TOLERANCE * alone.abs().max().clamp(min=1e-6))


def _has_plain_cache(network: Any) -> bool:
    """Whether it keeps nothing but keys and values of its tokens from step to step."""
    layers = _cache_layers(network)
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return bool(layers) and all(type(each) in kinds for each in layers)


def _cache_layers(network: Any) -> list[Any]:
    return list(DynamicCache(config=network.config).layers)


def _looks_at_length(network: Any) -> bool:
    """Whether what a token sees depends on more than its distance, which short probes hide.

    Such are positions that are stretched by the longest sequence of a pass, and chunks.
    """
    ropes = [getattr(module, "rope_type", None) for module in network.modules()]
    kinds = [k for each in ropes for k in (each.values() if isinstance(each, dict) else [each])]
    is_stretched = any(kind and ("dynamic" in kind or kind == "longrope") for kind in kinds)
    chunk = getattr(network.config.get_text_config(), "attention_chunk_size", None)
    return is_stretched or chunk is not None
