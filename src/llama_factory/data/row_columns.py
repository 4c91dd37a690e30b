"""What is computed of rows once, so that they can be compared later without reading them again."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_factory.core.types import Example
from llama_factory.text import signatures

Array = NDArray[Any]
COLUMNS = np.dtype(
    [
        ("key", np.uint64),
        ("prompt", np.uint64),
        ("question", np.uint64),
        ("answer", np.uint64),
        ("num_characters", np.uint32),
        ("num_prompt_characters", np.uint32),
        ("size", np.uint32),
        ("line", np.uint32),
        ("group", np.uint32),
        ("is_testable", np.bool_),
        ("bands", np.uint32, (signatures.NUM_BANDS,)),
        ("prompt_bands", np.uint32, (signatures.NUM_BANDS,)),
    ]
)
"""What is kept of a row: hashes of its content and of its prompt, of its prompt and its answer
normalised; lengths of the normalised texts; bytes and line in its file; group, by number; whether
it may be held out; MinHash bands of the row and of its prompt."""


@dataclass(frozen=True)
class Fragment:
    """Some rows as bytes, and their columns.

    Attributes:
        lines: the rows as JSON lines.
        columns: [rows] of the type `COLUMNS`.
        groups: the names that the column `group` numbers.
    """

    lines: bytes
    columns: Array
    groups: tuple[str, ...]


def make_fragment(rows: Sequence[Example]) -> Fragment:
    """Serialise rows and compute their columns."""
    lines = [_encode(row.to_json()).encode() + b"\n" for row in rows]
    prompts = list(map(prompt_text, rows))
    answers = ["" if row.is_text else signatures.letters_and_digits(row.answer) for row in rows]
    texts = [f"{q} {a}" if a else q for q, a in zip(prompts, answers, strict=True)]
    groups = tuple(dict.fromkeys(row.group for row in rows))
    columns = np.empty(len(rows), COLUMNS)
    columns["key"] = [hash_of(row.key) for row in rows]
    columns["prompt"] = [hash_of(row.prompt_key) for row in rows]
    columns["question"] = _hashes(prompts)
    columns["answer"] = _hashes(answers)
    columns["num_characters"] = list(map(len, texts))
    columns["num_prompt_characters"] = list(map(len, prompts))
    columns["size"] = list(map(len, lines))
    columns["line"] = [row.line for row in rows]
    columns["group"] = numbers_of((row.group for row in rows), groups)
    columns["is_testable"] = list(map(_is_testable, rows))
    columns["bands"] = signatures.band_hashes(texts)
    columns["prompt_bands"] = signatures.band_hashes(prompts)
    return Fragment(b"".join(lines), columns, groups)


def question_hashes(rows: Sequence[Example]) -> Array:
    """The column `question` of some rows."""
    return _hashes(list(map(prompt_text, rows)))


def numbers_of(names: Iterable[str], among: Sequence[str]) -> Array:
    """The places of names in a list of distinct ones."""
    places = {name: number for number, name in enumerate(among)}
    return np.array([places[name] for name in names], COLUMNS["group"])


def _is_testable(row: Example) -> bool:
    """Whether a model's answer may be held against this row's: it is real, and it is good."""
    return not row.augmented_by and row.is_desirable is not False


_encode = json.JSONEncoder(ensure_ascii=False).encode


def comparable_text(row: Example) -> str:
    """The normalised text by which rows are nearly the same: all turns but the system's."""
    return signatures.letters_and_digits(f"{_text(row.prompt)} {'' if row.is_text else row.answer}")


def prompt_text(row: Example) -> str:
    """The normalised text of all that is asked."""
    return signatures.letters_and_digits(_text(row.prompt))


def _text(turns: Iterable[Any]) -> str:
    contents = [turn.content for turn in turns if turn.role != "system"]
    calls = [call.arguments for turn in turns for call in turn.tool_calls]
    return "\n".join(contents + calls)


def hash_of(key: str) -> int:
    """The 64 bits of a 128-bit key that columns hold."""
    return int(key[:16], 16)


def _hashes(texts: Sequence[str]) -> Array:
    digests = [
        hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8) for text in texts
    ]
    return np.frombuffer(b"".join(each.digest() for each in digests), np.uint64)


def class_runs(*columns: Array) -> tuple[Array, Array]:
    """Rows class by class: those that agree in all columns are one class.

    Returns:
        The places of the rows so ordered (within a class as they were), and where in that order
        each class begins.
    """
    order = np.lexsort(columns[::-1])
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = np.any([column[order][1:] != column[order][:-1] for column in columns], axis=0)
    return order, np.flatnonzero(is_first)
