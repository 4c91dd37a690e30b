"""Strategy memory on disk: rows as JSON lines, tensors as safetensors, numbers as JSON."""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.core.types import Example, Memory

if TYPE_CHECKING:
    from torch import Tensor

ROWS = "rows.jsonl"


def save(memory: Memory, folder: Path) -> None:
    """Write a memory into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = (
        {"strategy": name, **row.to_json()} for name, rows in memory.rows.items() for row in rows
    )
    files.write_jsonl(folder / ROWS, listed)
    files.write_json(folder / "numbers.json", dict(memory.numbers))
    if memory.tensors:
        from safetensors.torch import save_file

        save_file(dict(memory.tensors), folder / "tensors.safetensors")


def load(folder: Path) -> Memory:
    """The inverse of `save`; a folder that does not exist is an empty memory.

    Raises:
        VersionError: a line of its rows is none.
    """
    rows: dict[str, list[Example]] = defaultdict(list)
    for name, row in _load_rows(folder / ROWS):
        rows[name].append(row)
    numbers = folder / "numbers.json"
    return Memory(
        rows={name: tuple(listed) for name, listed in rows.items()},
        tensors=_load_tensors(folder / "tensors.safetensors"),
        numbers=files.read_json(numbers) if numbers.exists() else {},
    )


def read_rows(folder: Path) -> Iterator[tuple[str, Example]]:
    """The rows of a memory, each with the strategy that kept it; no tensor is read.

    Raises:
        VersionError: a line is none.
    """
    return _load_rows(folder / ROWS)


def _load_rows(path: Path) -> Iterator[tuple[str, Example]]:
    """Each row with the strategy that kept it."""
    num_read = 0
    try:
        for row in files.read_jsonl(path):
            yield row["strategy"], Example.from_json(row)
            num_read += 1
    except (ValueError, KeyError, TypeError) as error:
        raise VersionError(
            f"{path}: line {num_read + 1} is no row that was kept ({error!r}). Somebody changed "
            "the file; remove the line, or restore the file from a backup."
        ) from error


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
