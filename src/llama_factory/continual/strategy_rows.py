"""Rows as strategies need them: kept in memory, and through the model outside the training loop."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_factory.core.types import Example, Memory

if TYPE_CHECKING:
    from torch import Tensor

    from llama_factory.model.adapted import AdaptedModel
    from llama_factory.model.chat.encoding import EncodedRow

HASHES = "hashes"
"""Tensor in memory under a strategy's name, [rows, 16] bytes: the hash of every row that it keeps,
in any order."""

logger = logging.getLogger(__name__)


def hashes(name: str, rows: Sequence[Example]) -> "dict[str, Tensor]":
    """What identifies the rows that a strategy keeps, as tensors by name."""
    import torch

    listed = [list(bytes.fromhex(_hash(row))) for row in rows]
    return {f"{name}.{HASHES}": torch.tensor(listed, dtype=torch.uint8).reshape(len(rows), 16)}


def intact(memory: Memory, name: str) -> tuple[tuple[Example, ...], int]:
    """A strategy's rows as it kept them, and the number of those that somebody edited."""
    rows, known = memory.rows.get(name, ()), _known(memory, name)
    if known is None:
        return rows, 0
    kept = tuple(row for row in rows if _hash(row) in known)
    return kept, len(rows) - len(kept)


def num_missing(memory: Memory) -> dict[str, int]:
    """How many of the rows that each strategy kept are gone, where any are."""
    missing, end = {}, f".{HASHES}"
    for name in (key.removesuffix(end) for key in memory.tensors if key.endswith(end)):
        lost = len(_known(memory, name) or ()) - len(memory.rows.get(name, ()))
        if lost > 0:
            missing[name] = lost
    return missing


def warn_of_edited(name: str, num_intact: int, num_edited: int) -> None:
    """Warn that rows are left out because somebody changed them."""
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
    """Of everything that is written of a row: its text, and its weight and group too."""
    line = json.dumps(row.to_json(), ensure_ascii=False, sort_keys=True)
    return hashlib.blake2b(line.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def encoded(model: "AdaptedModel", rows: Sequence[Example]) -> "list[EncodedRow]":
    """Tokens of rows, without those that cannot be taught to this model."""
    from llama_factory.model.chat.encoding import Unfit, encode

    codes = (encode(row, model.tokenizer, model.options) for row in rows)
    return [code for code in codes if not isinstance(code, Unfit)]


def padded(model: "AdaptedModel", rows: "Sequence[EncodedRow]") -> "tuple[Tensor, Tensor]":
    """Token ids and targets of rows, [rows, seq] each, on the model's device."""
    from llama_factory.model.padding import pad

    ids, targets = pad(rows)
    return ids.to(model.device), targets.to(model.device)


@contextmanager
def without_dropout(network: Any) -> Iterator[None]:
    """The network in evaluation mode, for the length of the block."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
