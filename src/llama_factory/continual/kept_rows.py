"""Rows that strategies keep in memory, and what tells them from rows that somebody edited."""

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llama_factory.core.types import Example, Memory

if TYPE_CHECKING:
    from torch import Tensor

HASHES = "hashes"
"""Tensor in memory under a strategy's name, [rows, 16] bytes: the hash of every row that it keeps,
in any order."""

logger = logging.getLogger(__name__)


def hashes(name: str, rows: Sequence[Example]) -> "dict[str, Tensor]":
    """What a strategy remembers of the rows that it keeps, as tensors by name."""
    import torch

    listed = [list(bytes.fromhex(_hash(row))) for row in rows]
    return {f"{name}.{HASHES}": torch.tensor(listed, dtype=torch.uint8).reshape(len(rows), 16)}


def intact(memory: Memory, name: str) -> tuple[tuple[Example, ...], int]:
    """A strategy's rows that are as it kept them, and the number of those that are not."""
    rows, known = memory.rows.get(name, ()), _known(memory, name)
    if known is None:
        return rows, 0
    kept = tuple(row for row in rows if _hash(row) in known)
    return kept, len(rows) - len(kept)


def missing(memory: Memory) -> dict[str, int]:
    """How many of the rows that each strategy kept are gone, where any are."""
    found, end = {}, f".{HASHES}"
    for name in (key.removesuffix(end) for key in memory.tensors if key.endswith(end)):
        lost = len(_known(memory, name) or ()) - len(memory.rows.get(name, ()))
        if lost > 0:
            found[name] = lost
    return found


def tell_edited(name: str, num_intact: int, num_edited: int) -> None:
    """Say that rows are left out because somebody changed them."""
    if num_edited:
        logger.warning(
            "strategies.%s: %d of %d kept rows do not fit the hash they were kept with, so "
            "somebody changed them; they are left out.",
            name,
            num_edited,
            num_edited + num_intact,
        )


def _known(memory: Memory, name: str) -> set[str] | None:
    hashed = memory.tensors.get(f"{name}.{HASHES}")
    return None if hashed is None else {bytes(each).hex() for each in hashed.tolist()}


def _hash(row: Example) -> str:
    """Of all that is written of a row: its text, and its weight and group too."""
    line = json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(line.encode(errors="surrogatepass"), digest_size=16).hexdigest()
