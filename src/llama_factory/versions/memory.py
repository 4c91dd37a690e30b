"""Strategy memory on disk: rows as JSON lines, tensors as safetensors, numbers as JSON."""

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.core import files
from llama_factory.core.types import Example, Memory

if TYPE_CHECKING:
    from torch import Tensor


def save(memory: Memory, folder: Path) -> None:
    """Write a memory into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = (
        {"strategy": name, **row.to_json()} for name, rows in memory.rows.items() for row in rows
    )
    files.write_jsonl(folder / "rows.jsonl", listed)
    files.write_json(folder / "numbers.json", dict(memory.numbers))
    if memory.tensors:
        from safetensors.torch import save_file

        save_file(dict(memory.tensors), folder / "tensors.safetensors")


def load(folder: Path) -> Memory:
    """The inverse of `save`; a folder that does not exist is an empty memory."""
    rows: dict[str, list[Example]] = defaultdict(list)
    for row in files.read_jsonl(folder / "rows.jsonl"):
        rows[row["strategy"]].append(Example.from_json(row))
    numbers = folder / "numbers.json"
    return Memory(
        rows={name: tuple(listed) for name, listed in rows.items()},
        tensors=_load_tensors(folder / "tensors.safetensors"),
        numbers=files.read_json(numbers) if numbers.exists() else {},
    )


def num_bytes(memory: Memory) -> dict[str, int]:
    """What each strategy keeps, by its name: rows as they are written, and tensors."""
    sizes: dict[str, int] = {}
    for name, rows in memory.rows.items():
        listed = (json.dumps(row.to_json(), ensure_ascii=False) for row in rows)
        sizes[name] = sum(len(line.encode()) for line in listed)
    for key, tensor in memory.tensors.items():
        name = key.partition(".")[0]
        sizes[name] = sizes.get(name, 0) + tensor.nbytes
    return sizes


def _load_tensors(path: Path) -> dict[str, "Tensor"]:
    if not path.exists():
        return {}
    from safetensors.torch import load_file

    return dict(load_file(path))
