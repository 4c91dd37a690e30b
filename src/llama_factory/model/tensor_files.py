"""Tensors written to and read from a safetensors file one by one, whoever holds parts of them.

Where processes share weights, each tensor is made whole only while it is written: nobody ever holds
all of them. The layout of the file is that of https://github.com/huggingface/safetensors#format.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from llama_factory.model.sharding import whole

NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ALIGNMENT = 8


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    writes: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors, each as a whole; every process that shares them must call this.

    Args:
        path: of the file.
        tensors: whole ones, or parts.
        writes: whether this process is the one that writes.
        metadata: texts that the file carries.
    """
    # the widest first, so that each begins where its type may
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    with path.open("wb") if writes else nullcontext() as file:
        if file is not None:
            file.write(_header(names, tensors, metadata))
        for name in names:
            values = whole(tensors[name])
            if file is not None:
                file.write(_bytes_of(values))


@contextmanager
def reading_tensors(path: Path) -> Iterator[tuple[list[str], Callable[[str], Tensor]]]:
    """The names in a file, and what reads one of them onto the CPU.

    Args:
        path: of the file.
    """
    opener: Any = safe_open
    with opener(path, framework="pt") as file:
        yield list(file.keys()), file.get_tensor


def num_bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor as a whole."""
    return tensor.numel() * tensor.element_size()


def _header(
    names: list[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in names:
        tensor = tensors[name]
        end = start + num_bytes_of(tensor)
        entries[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _bytes_of(tensor: Tensor) -> Any:
    flat = tensor.cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
