"""Rows as tokens, encoded once: kept on disk by content, template, tokenizer and options.

One SQLite file for each way of encoding; a killed run goes on with the rows that are missing, and
the next round encodes only its new ones. Rows are read back one at a time, so that a set may be
larger than memory.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from transformers import PreTrainedTokenizerBase
from transformers import __version__ as transformers_version

from llama_factory.core import __version__, files
from llama_factory.core.progress import Progress
from llama_factory.core.types import Example
from llama_factory.model.chat.encoding import ENCODERS, EncodedRow, EncodeOptions, Sequences, Unfit

ROWS_A_WRITE = 500
"""Rows written together: what a killed run may have to encode again."""
ENCODED, UNFIT = 0, 1
LOSS = '"lost_tokens"'
"""In what is known of a row that lost some."""
REVISION = 2
"""Raised whenever rows become other tokens or masks than before."""
_EXTRA = [field for field in fields(EncodedRow) if field.name not in ("ids", "is_trained")]


@dataclass(frozen=True)
class Cut:
    """What rows lose because they are too long.

    Attributes:
        shortened: rows without their oldest turns.
        cut: rows without the end of an answer, which are not taught to stop there.
        tokens: left out of both in all.
    """

    shortened: int = 0
    cut: int = 0
    tokens: int = 0

    def to_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)

    def with_row(self, parts: Sequence[Mapping[str, Any]]) -> "Cut":
        """The same with one more row, by what is known of its sequences."""
        return Cut(
            self.shortened + any(part.get("lost_turns") for part in parts),
            self.cut + any(part.get("cut_tokens") for part in parts),
            self.tokens + max(part.get("lost_tokens", 0) for part in parts),
        )


class EncodedRows(Sequence[Sequences]):
    """Encoded rows in a cache, read as they are asked for: the sequences each row stands for.

    Args:
        path: the SQLite file.
        places: numbers of the rows in it, in the order wanted.
        cut: what they lost.
    """

    def __init__(self, path: Path, places: Sequence[int], cut: Cut) -> None:
        self.cut = cut
        self._connection = _open(path)
        self._places = np.array(places, np.int64)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Sequences: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Sequences, ...]: ...
    def __getitem__(self, place: int | slice) -> Sequences | tuple[Sequences, ...]:
        if isinstance(place, slice):
            return tuple(self[each] for each in range(*place.indices(len(self))))
        query = "SELECT about, ids, trained FROM rows WHERE place = ?"
        found = self._connection.execute(query, (int(self._places[place]),)).fetchone()
        return _sequences(*found)

    def lengths(self, place: int) -> tuple[int, ...]:
        """Tokens of each sequence of a row, without reading them."""
        query = "SELECT about FROM rows WHERE place = ?"
        (about,) = self._connection.execute(query, (int(self._places[place]),)).fetchone()
        return tuple(part["num_tokens"] for part in json.loads(about))


def encode_rows(
    rows: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    options: EncodeOptions,
    *,
    cache: Path,
    progress: Progress,
    encoding: str = "answers",
) -> tuple[EncodedRows, list[tuple[Example, Unfit]]]:
    """Tokens of rows, taken from the cache where they were encoded before.

    Args:
        rows: in any number.
        tokenizer: has a chat template.
        options: how rows become tokens.
        cache: folder of the files, one a way of encoding.
        progress: shows the rows that are encoded now.
        encoding: what a row stands for, one of `ENCODERS`.

    Returns:
        The rows that can be taught, in order, and those that cannot with the reason.

    Raises:
        ModelError: the template writes earlier turns differently once others follow.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{_way(tokenizer, options, encoding)}.sqlite"
    connection = _open(path)
    places: list[int] = []
    unfit: list[tuple[Example, Unfit]] = []
    cut = Cut()
    with progress.bar("tokenising", len(rows)) as bar:
        for some in _batches(rows):
            found = _encoded(
                connection, some, lambda row: ENCODERS[encoding](row, tokenizer, options)
            )
            for row, (place, kind, about) in zip(some, found, strict=True):
                if kind == UNFIT:
                    unfit.append((row, Unfit(about)))
                else:
                    places.append(place)
                    cut = cut.with_row(json.loads(about)) if LOSS in about else cut
            bar.advance(len(some))
    connection.close()
    return EncodedRows(path, places, cut), unfit


def _way(tokenizer: PreTrainedTokenizerBase, options: EncodeOptions, encoding: str) -> str:
    """Names a way of encoding: whatever changes tokens or masks changes it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelling = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    parts = [
        REVISION,
        __version__,
        transformers_version,
        spelling,
        special,
        tokenizer.chat_template,
    ]
    text = json.dumps([*parts, asdict(options), encoding], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _open(path: Path) -> sqlite3.Connection:
    """The cache of one way of encoding, which any number of processes may read and write."""
    if not path.exists():
        _begin(path)
    # rows may be read on another thread than the one that opened it, by one thread at a time
    return sqlite3.connect(path, timeout=60, check_same_thread=False)


def _begin(path: Path) -> None:
    """Make an empty cache, whole or absent: two that do so in one file lock each other out."""
    with files.locked(path.with_name(".lock"), what="beginning a cache", seconds=60):
        if path.exists():  # another process was faster
            return
        temporary = files.temporary_beside(path)
        with contextlib.closing(sqlite3.connect(temporary)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                "CREATE TABLE rows (place INTEGER PRIMARY KEY, key BLOB UNIQUE, kind INTEGER,"
                " about TEXT, ids BLOB, trained BLOB)"
            )
        temporary.rename(path)


def _key(row: Example) -> bytes:
    """Names a row's content and everything else that its encoding depends on."""
    weights = [turn.weight for turn in row.messages]
    text = json.dumps([row.key, row.weight, weights])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _find(connection: sqlite3.Connection, row: Example) -> tuple[int, int, str] | None:
    query = "SELECT place, kind, about FROM rows WHERE key = ?"
    found: tuple[int, int, str] | None = connection.execute(query, (_key(row),)).fetchone()
    return found


def _batches(rows: Sequence[Example]) -> Iterator[list[Example]]:
    left = iter(rows)
    while some := list(islice(left, ROWS_A_WRITE)):
        yield some


def _encoded(
    connection: sqlite3.Connection,
    rows: Sequence[Example],
    encode: Callable[[Example], Sequences | Unfit],
) -> list[tuple[int, int, str]]:
    """Place, kind and reason of rows; missing ones are encoded first."""
    missing = [row for row in rows if _find(connection, row) is None]
    new = [(_key(row), *_stored(encode(row))) for row in missing]
    query = "INSERT OR IGNORE INTO rows (key, kind, about, ids, trained) VALUES (?, ?, ?, ?, ?)"
    with connection:
        connection.executemany(query, new)
    found = [_find(connection, row) for row in rows]
    return [each for each in found if each is not None]


def _stored(code: Sequences | Unfit) -> tuple[int, str, bytes, bytes]:
    if isinstance(code, Unfit):
        return UNFIT, code.reason, b"", b""
    about = [_about(part) for part in code]
    ids = np.concatenate([np.array(part.ids, np.uint32) for part in code])
    trained = np.packbits(np.concatenate([part.is_trained for part in code]))
    return ENCODED, json.dumps(about), ids.tobytes(), trained.tobytes()


def _about(part: EncodedRow) -> dict[str, Any]:
    """All of a sequence but its tokens and mask; what has its usual value is left out."""
    values = {field.name: getattr(part, field.name) for field in _EXTRA}
    usual = {field.name: field.default for field in _EXTRA}
    unusual = {name: value for name, value in values.items() if value != usual[name]}
    return {"num_tokens": len(part.ids), **unusual}


def _sequences(about: str, ids: bytes, trained: bytes) -> Sequences:
    parts = json.loads(about)
    ends = np.cumsum([part.pop("num_tokens") for part in parts])
    tokens = np.frombuffer(ids, np.uint32)
    bits = np.unpackbits(np.frombuffer(trained, np.uint8), count=len(tokens)).astype(bool)
    pieces = zip(np.split(tokens, ends[:-1]), np.split(bits, ends[:-1]), parts, strict=True)
    return tuple(
        EncodedRow(tuple(some.tolist()), tuple(mask.tolist()), **_with_tuples(extra))
        for some, mask, extra in pieces
    )


def _with_tuples(extra: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only."""
    return extra | ({"weights": tuple(extra["weights"])} if extra.get("weights") else {})
