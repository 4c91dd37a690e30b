"""Rows as a strategy needs them outside the loop: their tokens, and the log-probability of what
they teach.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from llama_factory.core.types import Example
from llama_factory.model.adapted import AdaptedModel
from llama_factory.model.chat.masks import EncodedRow, Unfit, encode
from llama_factory.model.padding import pad


def encoded(model: AdaptedModel, rows: Sequence[Example]) -> list[EncodedRow]:
    """Tokens of rows, without those that cannot be taught to this model."""
    codes = (encode(row, model.tokenizer, model.options) for row in rows)
    return [code for code in codes if not isinstance(code, Unfit)]


def padded(model: AdaptedModel, rows: Sequence[EncodedRow]) -> tuple[Tensor, Tensor]:
    """Token ids and targets of rows, [rows, seq] each, where the model is."""
    ids, targets = pad(rows)
    return ids.to(model.device), targets.to(model.device)


@contextmanager
def answering(network: Any) -> Iterator[None]:
    """Switch dropout off for a while, as when the model answers."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
