"""Statistics of a set of rows, counted in one pass and in bounded memory."""

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example, Message
from llama_factory.data.reading import Refused, to_example
from llama_factory.data.sources.files import DataSource, rows_of
from llama_factory.text.languages import UNKNOWN, language_of

BINS_PER_DECADE = 40
"""A percentile read from the bins is at most 3 % off; minimum, mean and maximum are exact."""
NUM_BINS = 9 * BINS_PER_DECADE
"""Lengths up to a billion."""
PERCENTILES = (5, 25, 50, 75, 95, 99)
MOST_NAMES = 10_000
"""Groups, files and reasons that have a count of their own; later ones count as `OTHERS`."""
OTHERS = "(others)"
MOST_KEYS = 20_000_000
"""Rows compared for exact duplicates: 8 bytes each."""
MOST_TURNS = 20
MIN_CONFIDENCE = 0.5
"""A language detected with less confidence counts as unknown: mostly code and lists of names."""


class Histogram:
    """Lengths counted in bins of equal width on a logarithmic scale; bin 0 holds the zeros."""

    def __init__(self) -> None:
        self.counts = [0] * (NUM_BINS + 1)
        self.num_values = 0
        self.total = 0
        self.smallest = 0
        self.largest = 0

    def add(self, length: int) -> None:
        """Count one more length."""
        place = int(math.log10(length) * BINS_PER_DECADE) + 1 if length else 0
        self.counts[min(place, NUM_BINS)] += 1
        self.smallest = min(self.smallest, length) if self.num_values else length
        self.largest = max(self.largest, length)
        self.num_values += 1
        self.total += length

    @property
    def mean(self) -> float:
        """The exact mean; 0 where nothing was counted."""
        return self.total / max(self.num_values, 1)

    def percentile(self, percent: float) -> int:
        """The length that `percent` of all lengths do not exceed, to within 3 % and rounding."""
        wanted = percent / 100 * self.num_values
        reached = 0
        for place, count in enumerate(self.counts):
            reached += count
            if count and reached >= wanted:
                middle = round(10 ** ((place - 0.5) / BINS_PER_DECADE)) if place else 0
                return min(max(middle, self.smallest), self.largest)
        return 0

    def to_json(self) -> dict[str, Any]:
        """Summary and the bins that are not empty, by their lower edge."""
        edges = [bin_edge(place) for place in range(NUM_BINS + 1)]
        bins = [[edge, n] for edge, n in zip(edges, self.counts, strict=True) if n]
        percentiles = {f"p{percent}": self.percentile(percent) for percent in PERCENTILES}
        ends = {"min": self.smallest, "mean": round(self.mean, 1), "max": self.largest}
        return {**ends, **percentiles, "total": self.total, "bins": bins}


def bin_edge(place: int) -> float:
    """Smallest length of a bin."""
    return round(10 ** ((place - 1) / BINS_PER_DECADE), 2) if place else 0.0


@dataclass
class DataStats:
    """Statistics of a set of rows. Names are in order of first appearance.

    Attributes:
        num_rows: good rows.
        num_refused: rows and files that could not be read.
        num_duplicates: rows of which an equal one came before.
        num_compared: rows that were looked at for duplicates: the first MOST_KEYS.
        files: good rows by file.
        groups: good rows by group.
        kinds: good rows by chat, text, preference or kto.
        languages: good rows by the language of their answer, `und` where it is unknown.
        turns: conversations by number of answers in them.
        features: good rows that have a system prompt, tools, pictures, or were augmented.
        refused: refused rows by reason.
        prompts: characters of all turns before the answer; plain text has no prompt.
        answers: characters of the answer, or of the plain text.
        tokens: tokens of the whole row; None where no tokenizer was given.
    """

    num_rows: int = 0
    num_refused: int = 0
    num_duplicates: int = 0
    num_compared: int = 0
    files: Counter[str] = field(default_factory=Counter)
    groups: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    turns: Counter[int] = field(default_factory=Counter)
    features: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    prompts: Histogram = field(default_factory=Histogram)
    answers: Histogram = field(default_factory=Histogram)
    tokens: Histogram | None = None

    @property
    def refused_fraction(self) -> float:
        """Fraction of all rows that could not be read."""
        return self.num_refused / max(self.num_rows + self.num_refused, 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the most frequent first."""
        return {
            "rows": self.num_rows,
            "duplicates": self.num_duplicates,
            "compared_for_duplicates": self.num_compared,
            "refused": {
                "rows": self.num_refused,
                "fraction": round(self.refused_fraction, 6),
                "reasons": dict(self.refused.most_common()),
            },
            "files": dict(self.files.most_common()),
            "groups": dict(self.groups.most_common()),
            "kinds": dict(self.kinds.most_common()),
            "languages": dict(self.languages.most_common()),
            "turns": {str(number): self.turns[number] for number in sorted(self.turns)},
            "features": dict(self.features.most_common()),
            "prompt_characters": self.prompts.to_json(),
            "answer_characters": self.answers.to_json(),
            "tokens": self.tokens.to_json() if self.tokens else None,
        }


def rows_in(sources: Iterable[DataSource]) -> Iterator[Example | Refused]:
    """All rows of all sets as they are, before any cleaning; an unreadable set is refused."""
    for source in sources:
        file = source.path.name if source.path else source.name
        folder = source.path.parent if source.path else None
        try:
            for row in rows_of(source):
                if isinstance(row, Refused):
                    yield row
                    continue
                yield to_example(
                    row, group=source.name, file=file, layout=source.layout, folder=folder
                )
        except DataError as error:
            yield Refused(file, 0, str(error))


def collect(
    rows: Iterable[Example | Refused], *, num_tokens: Callable[[str], int] | None = None
) -> DataStats:
    """Count what rows are made of; they are read once and not kept.

    Args:
        rows: good and refused rows, in any order.
        num_tokens: text -> its number of tokens; None leaves tokens out.
    """
    stats = DataStats(tokens=Histogram() if num_tokens else None)
    keys = array("Q")
    for row in rows:
        if isinstance(row, Refused):
            stats.num_refused += 1
            _count(stats.refused, row.reason)
            continue
        _count_row(stats, row)
        if stats.tokens and num_tokens:
            stats.tokens.add(sum(num_tokens(turn.content) for turn in row.messages))
        if len(keys) < MOST_KEYS:
            keys.append(int(row.key[:16], 16))
    stats.num_compared = len(keys)
    stats.num_duplicates = len(keys) - len(np.unique(np.frombuffer(keys, np.uint64)))
    return stats


def _count_row(stats: DataStats, row: Example) -> None:
    stats.num_rows += 1
    _count(stats.files, row.file)
    _count(stats.groups, row.group)
    stats.kinds[_kind(row)] += 1
    stats.languages[_language(row.answer)] += 1
    stats.answers.add(_length(row.messages[-1]))
    for name, has in _features(row).items():
        if has:
            stats.features[name] += 1
    if not row.is_text:
        stats.prompts.add(sum(map(_length, row.prompt)))
        answers = sum(turn.role == "assistant" for turn in row.messages)
        stats.turns[min(answers, MOST_TURNS)] += 1


def _count(counter: Counter[str], name: str) -> None:
    if len(counter) >= MOST_NAMES and name not in counter:
        name = OTHERS
    counter[name] += 1


def _kind(row: Example) -> str:
    if row.is_text:
        return "text"
    if row.rejected:
        return "preference"
    return "chat" if row.is_desirable is None else "kto"


def _features(row: Example) -> Mapping[str, bool]:
    return {
        "system prompt": row.messages[0].role == "system",
        "tools": bool(row.tools) or any(turn.tool_calls for turn in row.messages),
        "pictures": bool(row.images),
        "augmented": bool(row.augmented_by),
    }


def _language(text: str) -> str:
    language, confidence = language_of(text)
    return language if confidence >= MIN_CONFIDENCE else UNKNOWN


def _length(turn: Message) -> int:
    return len(turn.content) + sum(len(call.arguments) for call in turn.tool_calls)
