"""The lowest layers of a network, which nothing trains: what leaves them depends on a row alone.

A row goes through them by itself, in products of its own size, never beside others: so its states
are the same to the last bit whatever rows it meets later, and may be kept. Adapters that these
layers carry add nothing (their B is zero), or the layers are no trunk.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llama_factory.model.layers import backbone_of
from llama_factory.model.quick.layer import PassContext, block_of, linear_modules, run
from llama_factory.model.quick.layout import Stretch
from llama_factory.model.quick.linear import adds_nothing

Row = tuple[int, ...]
"""Token ids."""


class RowStates(Protocol):
    """What gives the states of rows behind the lowest layers."""

    num_layers: int

    def states(self, rows: Sequence[Row]) -> list[Tensor]:
        """[tokens, width] of each row."""


def num_frozen(network: Any) -> int:
    """How many of the lowest layers, without a gap, nothing trains in."""
    layers = backbone_of(network).layers
    for number, layer in enumerate(layers):
        if any(weight.requires_grad for weight in layer.parameters()):
            return number
    return len(layers)


def obstacle(network: Any, num_layers: int) -> str:
    """Why the states behind these layers are not those of a row alone; empty where they are.

    Args:
        network: whose layers are of a known kind.
        num_layers: of the lowest ones, in which nothing trains.
    """
    backbone = backbone_of(network)
    table = backbone.embed_tokens
    if type(table) is not nn.Embedding or table.weight.requires_grad:
        return "the embeddings train"
    lowest = list(backbone.layers)[:num_layers]
    if not all(adds_nothing(each) for layer in lowest for each in linear_modules(layer)):
        return f"the lowest {num_layers} layers carry what earlier rounds taught their adapter"
    return ""


class Trunk:
    """The lowest layers of a network, one row at a time, without a gradient.

    Args:
        network: for which there is no `obstacle`.
        num_layers: of the lowest ones.
    """

    def __init__(self, network: Any, num_layers: int) -> None:
        backbone = backbone_of(network)
        self.num_layers = num_layers
        self._table: nn.Embedding = backbone.embed_tokens
        self._rotary = backbone.rotary_emb
        self._config = backbone.config.get_text_config()
        self._blocks = [
            block_of(layer, is_bare=True) for layer in list(backbone.layers)[:num_layers]
        ]

    @property
    def dtype(self) -> torch.dtype:
        """Of the states."""
        return self._table.weight.dtype

    @property
    def width(self) -> int:
        """Of a state."""
        return self._table.embedding_dim

    @property
    def device(self) -> torch.device:
        """Where they are computed."""
        return self._table.weight.device

    @torch.no_grad()
    def compute(self, row: Row) -> Tensor:
        """[tokens, width] the states of a row."""
        with torch.autocast(self.device.type, enabled=False):
            hidden = self._table(torch.tensor(row, device=self.device))
            positions = torch.arange(len(row), device=self.device)
            whole = (Stretch(0, len(row)),)
            reading = PassContext.of(self._rotary, hidden, positions, whole)
            for block in self._blocks:
                hidden = run(hidden, block, reading)
        return hidden

    def digest(self) -> str:
        """Names all that the states depend on: weights, positions, numbers, this machine's way."""
        numbers = [
            _code(),
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
            torch.get_num_threads(),
            str(self.device.type),
            self.num_layers,
            [block.first.epsilon for block in self._blocks],
            [vars(block.heads) for block in self._blocks],
            getattr(self._rotary, "attention_scaling", 1.0),
            self._config.hidden_act,
        ]
        # hashing leaves the interpreter alone, so that it runs on all processors
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            parts = list(threads.map(_hash_of, self._tensors()))
        text = json.dumps([numbers, parts])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _tensors(self) -> Iterator[Tensor]:
        yield self._table.weight
        yield from self._rotary.buffers()
        for block in self._blocks:
            yield from (block.first.weight, block.second.weight)
            for products in (block.attention, block.output, block.gates, block.down):
                yield from (weight for weight in products.weights())


def _code() -> str:
    """Of the files that say how layers are computed: other ones round otherwise."""
    content = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()


def _hash_of(tensor: Tensor) -> str:
    """Of type, shape and values."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    name = hashlib.blake2b(f"{tensor.dtype} {list(tensor.shape)}".encode(), digest_size=16)
    name.update(flat.numpy().data)
    return name.hexdigest()
