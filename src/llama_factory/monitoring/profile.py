"""What rows are like, without a model: their languages, lengths, labels and words."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from llama_factory.core.types import Example
from llama_factory.text.languages import language_of

MOST_ROWS = 2000
"""Rows that are looked at: more change no distribution that anybody would act on."""
LABEL_CHARACTERS = 40
"""An answer this short may be a label, if it repeats."""
REPEATS = 3
"""How often a label has to occur."""
NO_LABEL = "(free text)"
_WORD = re.compile(r"[^\W\d_\u3400-\u9fff]+|[\u3400-\u9fff]+")


@dataclass(frozen=True)
class RowTraits:
    """What one row is like.

    Attributes:
        language: code.
        length: characters of question and answer, as a power of 2.
        answer: the answer where it is short enough to be a label.
        words: of question and answer; pairs of characters in Chinese.
    """

    language: str
    length: str
    answer: str
    words: frozenset[str]


def traits_of(rows: Iterable[Example]) -> list[RowTraits]:
    """The traits of at most `MOST_ROWS` rows."""
    return [_traits(row) for row in islice(rows, MOST_ROWS)]


def spread_out(rows: Sequence[Example]) -> Iterator[Example]:
    """At most `MOST_ROWS` of many rows, evenly over all of them."""
    step = max(1, -(-len(rows) // MOST_ROWS))
    return (rows[place] for place in range(0, len(rows), step))


def labels_of(*sides: Sequence[RowTraits]) -> frozenset[str]:
    """Short answers that repeat on either side; none where answers are mostly free text."""
    known = set()
    for traits in sides:
        counts = Counter(each.answer for each in traits if each.answer)
        labels = {answer for answer, count in counts.items() if count >= REPEATS}
        if sum(counts[each] for each in labels) >= len(traits) / 2:
            known |= labels
    return frozenset(known)


def words_in(text: str) -> Iterator[str]:
    """Words in small letters; of Chinese, each pair of neighbouring characters."""
    for word in _WORD.findall(text.lower()):
        if "\u3400" <= word[0] <= "\u9fff":
            yield from (word[n : n + 2] for n in range(max(1, len(word) - 1)))
        else:
            yield word


def _traits(row: Example) -> RowTraits:
    text = "\n".join(turn.content for turn in row.messages)
    answer = "" if row.is_text else row.answer.strip()
    language, _ = language_of(text)
    return RowTraits(
        language,
        f"2^{len(text).bit_length()}",
        answer if len(answer) <= LABEL_CHARACTERS else "",
        frozenset(words_in(text)),
    )
