"""Answers and texts that go round in circles, as sampled ones do and scraped ones may.

The rules are those of Gopher (Rae et al. 2021, "Scaling Language Models: Methods, Analysis &
Insights from Training Gopher", table A1, https://arxiv.org/abs/2112.11446). We differ in bounds:
its web pages are cheap, while instructions hold tables, code and poems with a refrain, so only
what is mostly repetition goes; in Chinese, where characters take the place of words; and in a rule
for the same phrase over and over, which is how a sampled answer fails.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from llama_factory.core.sentences import kind_of_sentence
from llama_factory.core.types import Example
from llama_factory.data.cleaning import CLEANERS, Dropped, RowStep

SAME_LETTERS = kind_of_sentence("data.same_letters", "repetition: the same letters on and on")
SAME_LINES = kind_of_sentence("data.same_lines", "repetition: the same lines")
SAME_PHRASE = kind_of_sentence("data.same_phrase", "repetition: the same phrase again and again")
SAME_PASSAGES = kind_of_sentence("data.same_passages", "repetition: the same passages")
ONE_PHRASE = kind_of_sentence("data.one_phrase", "repetition: one phrase everywhere")

_EASTERN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3"
_WORD = re.compile(rf"[{_EASTERN}]|[^\W{_EASTERN}]+")
_SAME_LETTERS = re.compile(r"([^\W_]{1,4}?)\1{29,}")
_MOST_ZEROS = 200
"""A longer run of the same digits is a fault; a googol is written with 100 of them."""
_SNIPPETS = 16
"""Places where a text is compared with the rest of itself before any rule is counted."""
_SNIPPET_CHARACTERS = 20
_SUSPECT_SNIPPETS = 3
_LONGEST_PHRASE = 60
"""In words: longer phrases that come again and again are caught as duplicate n-grams."""
_MAX_WORDS = 20_000


@CLEANERS.register("repetition")
class RepeatedText(RowStep):
    """Drops rows whose answer repeats itself. Bad answers of preference pairs and KTO may."""

    min_characters: int = Field(200, ge=50)
    """Shorter texts are never judged: too little to tell a refrain from a loop."""
    max_duplicate_lines: float = Field(0.5, gt=0, le=1)
    """Fraction of characters in lines that were there before. Lower drops songs and forms too."""
    max_duplicate_ngrams: float = Field(0.5, gt=0, le=1)
    """Fraction of characters in runs of 10 words (16 Chinese characters) that were there before."""
    max_top_ngram: float = Field(0.4, gt=0, le=1)
    """Fraction of characters in the most frequent run of 4 words (8 Chinese characters), where it
    comes at least 8 times. JSON, whose keys come again in every record, is not counted."""
    max_loop: float = Field(0.2, gt=0, le=1)
    """Fraction of characters in the longest loop: one phrase at least 5 times in a row, or one of
    up to 3 words 10 times."""

    def clean(self, row: Example) -> Example | Dropped:
        """The row itself, or in which way its answer repeats itself."""
        for text in _taught(row):
            if len(text) < self.min_characters:
                continue
            reason = self._problem(text)
            if reason:
                return Dropped(reason)
        return row

    def _problem(self, text: str) -> str:
        if not _is_suspect(text):
            return ""
        if _same_letters(text) > self.max_loop * len(text):
            return SAME_LETTERS()
        if _duplicate_lines(text) > self.max_duplicate_lines:
            return SAME_LINES()
        words = _WORD.findall(text, 0, 8 * _MAX_WORDS)
        return self._problem_of_words(words, is_json=text.lstrip()[:1] in "{[")

    def _problem_of_words(self, words: Sequence[str], *, is_json: bool) -> str:
        sizes = np.array([len(word) for word in words])
        total = max(int(sizes.sum()), 1)
        long, short = (16, 8) if total < 2 * len(words) else (10, 4)
        if _loop(words, sizes) / total > self.max_loop:
            return SAME_PHRASE()
        if _duplicates(words, sizes, long) / total > self.max_duplicate_ngrams:
            return SAME_PASSAGES()
        if not is_json and _most_frequent(words, short) / total > self.max_top_ngram:
            return ONE_PHRASE()
        return ""


def _taught(row: Example) -> Iterator[str]:
    if row.is_text:
        yield row.answer
    elif row.is_desirable is not False:
        yield from (t.content for t in row.messages if t.role == "assistant" and t.weight)


def _is_suspect(text: str) -> bool:
    """A quick look at some places spread evenly, the end among them: do they come again before?

    Costs some 5 microseconds where compressing the text takes 30; 3 of 16 places are below
    the bounds of the rules.
    """
    # in a long text, short phrases come again by nature
    size = min(_SNIPPET_CHARACTERS + len(text) // 500, 60)
    size = size if text.isascii() else size // 2
    last = len(text) - size
    again = 0
    for number in range(1, _SNIPPETS + 1):
        place = last * number // _SNIPPETS
        if text.find(text[place : place + size], 0, place + size - 1) >= 0:
            again += 1
    return again >= _SUSPECT_SNIPPETS


def _same_letters(text: str) -> int:
    """Characters in the longest run such as aaaa, 哈哈哈 or lalala."""
    runs = (run[0] for run in _SAME_LETTERS.finditer(text))
    return max((len(r) for r in runs if len(r) > _MOST_ZEROS or not r.isdigit()), default=0)


def _duplicate_lines(text: str) -> float:
    """Fraction of characters in lines with words that were there before."""
    seen: set[str] = set()
    total = again = 0
    for line in map(str.strip, text.split("\n")):
        if not any(map(str.isalpha, line)):
            continue
        total += len(line)
        again += len(line) if line in seen else 0
        seen.add(line)
    return again / max(total, 1)


def _duplicates(words: Sequence[str], sizes: np.ndarray, n: int) -> int:
    """Characters in n-grams that were there before, each character counted once."""
    seen: set[tuple[str, ...]] = set()
    is_again = np.zeros(len(words), dtype=bool)
    for place, ngram in enumerate(_ngrams(words, n)):
        if ngram in seen:
            is_again[place : place + n] = True
        seen.add(ngram)
    return int(sizes[is_again].sum())


def _most_frequent(words: Sequence[str], n: int) -> int:
    """Characters in the most frequent n-gram; overlaps count as often as they fit."""
    counts = Counter(_ngrams(words, n)).most_common(1)
    if not counts:
        return 0
    ngram, count = counts[0]
    if count < 8 or len(set(ngram)) == 1 or not _has_letters(ngram):
        return 0  # numbers in a row are a table, and one word in a row is a loop
    return count * sum(map(len, ngram))


def _loop(words: Sequence[str], sizes: np.ndarray) -> int:
    """Characters in the longest stretch that repeats one phrase without a break."""
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for word in words])
    longest = 0
    for period in range(1, min(_LONGEST_PHRASE, len(words) // 5) + 1):
        is_same = ids[period:] == ids[:-period]
        fewest = period * (9 if period <= 3 else 4)
        if np.count_nonzero(is_same) < fewest:
            continue
        start, end = _longest_run(is_same)
        if end - start >= fewest and _has_letters(words[start : start + period]):
            longest = max(longest, int(sizes[start : end + period].sum()))
    return longest


def _longest_run(is_same: np.ndarray) -> tuple[int, int]:
    """Start and end (exclusive) of the longest run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], is_same, [False])).astype(np.int8)))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    best = int(np.argmax(ends - starts))
    return int(starts[best]), int(ends[best])


def _ngrams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _has_letters(words: Sequence[str]) -> bool:
    return any(character.isalpha() for word in words for character in word)
