"""ROUGE-1, ROUGE-2 and ROUGE-L of one answer over jieba's words: what LLaMA-Factory reports.

Lin 2004, https://aclanthology.org/W04-1013, sections 2 and 3, as the package rouge-chinese counts
it: case and punctuation matter, and an n-gram that is there twice counts once. Differs: the right
answer has exactly 1, where that package has a hundred-millionth less.
"""

import re
from collections.abc import Sequence
from typing import ClassVar

from rapidfuzz.distance import LCSseq

from llama_factory.evaluation.metrics import METRICS, Metric
from llama_factory.text.words import jieba_words

END = re.compile(r"([。！？?]|\.{6})(.)", re.DOTALL)
"""Where rouge-chinese breaks a line."""


class _Rouge(Metric):
    """F1 of the sequences of `order` words that two texts share."""

    order: ClassVar[int]

    def score(self, expected: str, answer: str) -> float:
        """See `Metric.score`; 0 where a text is empty."""
        wanted, given = words(expected), words(answer)
        return self._f1(wanted, given) if any(wanted) and any(given) else 0.0

    def _f1(self, wanted: Sequence[str], given: Sequence[str]) -> float:
        expected, answered = _ngrams(wanted, self.order), _ngrams(given, self.order)
        return _f1(len(expected & answered), len(expected) + len(answered))


@METRICS.register("rouge-1")
class Rouge1(_Rouge):
    """Overlap of single words."""

    order = 1


@METRICS.register("rouge-2")
class Rouge2(_Rouge):
    """Overlap of pairs of words; 0 where a text has only one."""

    order = 2


@METRICS.register("rouge-l")
class RougeL(_Rouge):
    """Longest sequence of words that both texts have in the same order."""

    def _f1(self, wanted: Sequence[str], given: Sequence[str]) -> float:
        return _f1(LCSseq.similarity(wanted, given), len(wanted) + len(given))


def words(text: str) -> list[str]:
    """The words and marks of a text, as rouge-chinese finds them in jieba's words.

    A line of white space is one empty word there, such as the blank one between two paragraphs.
    """
    lines = END.sub(r"\1\n\2", " ".join(jieba_words(text))).rstrip().split("\n")
    return [word for line in lines if line for word in line.split() or [""]]


def _ngrams(listed: Sequence[str], order: int) -> set[tuple[str, ...]]:
    return set(zip(*(listed[start:] for start in range(order)), strict=False))


def _f1(shared: int, both: int) -> float:
    """Harmonic mean of precision and recall, from the parts that two texts have together."""
    return 2 * shared / both if both else 0.0
