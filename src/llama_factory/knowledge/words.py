"""Passages found by their words: BM25 with a weight for titles.

SQLite gives a word that is in more than half of all passages a weight of nothing, so that small
collections come out at random. It only gathers the candidates here; their order is computed with
the weight log(1 + (N - n + 0.5) / (n + 0.5)), which is never below 0 (Robertson and Zaragoza 2009,
"The Probabilistic Relevance Framework", 3.1, with 1 added as Lucene does).
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from llama_factory.knowledge.index import KnowledgeIndex
from llama_factory.text.words import search_words

TITLE_WEIGHT = 3.0
"""How many times a word in a title counts."""
SATURATION, LENGTH_PART = 1.2, 0.75
"""BM25's k1 and b."""
CANDIDATES = 200
MAX_QUESTION_CHARACTERS = 2_000
MAX_WORDS = 64
COMMON = 0.5
"""Words in a larger fraction of all passages find nothing, unless there are no others."""
MANY = 1_000
"""Passages from which common words are left out of the search: it would rank nearly all."""


@dataclass(frozen=True)
class Found:
    """A passage that was found.

    Attributes:
        id: of the passage.
        score: higher is better; comparable within one search only.
        coverage: how much of the question's words it holds, each weighed by how rare it is.
    """

    id: int
    score: float
    coverage: float


def search_by_words(index: KnowledgeIndex, question: str, most: int) -> list[Found]:
    """The passages with the question's words, best first."""
    words = list(dict.fromkeys(search_words(question[:MAX_QUESTION_CHARACTERS])))[:MAX_WORDS]
    num = index.num_chunks()
    frequencies = index.frequencies(words)
    weights = {word: _weight(frequencies[word], num) for word in words}
    rows = index.holding(_searched(frequencies, num), TITLE_WEIGHT, CANDIDATES)
    if not rows:
        return []
    texts = [(key, title.split(), body.split()) for key, title, body in rows]
    usual = sum(len(title) + len(body) for _, title, body in texts) / len(texts)
    found = [_scored(key, title, body, weights, usual) for key, title, body in texts]
    return sorted(found, key=lambda each: (-each.score, each.id))[:most]


def _searched(frequencies: Mapping[str, int], num: int) -> list[str]:
    known = [word for word, count in frequencies.items() if count]
    if num < MANY:
        return known
    return [word for word in known if frequencies[word] <= COMMON * num] or known


def _weight(count: int, num: int) -> float:
    return math.log1p((num - count + 0.5) / (count + 0.5))


def _scored(
    key: int, title: list[str], body: list[str], weights: Mapping[str, float], usual: float
) -> Found:
    counts: dict[str, float] = dict(Counter(body))
    for word in title:
        counts[word] = counts.get(word, 0) + TITLE_WEIGHT
    length = (len(title) + len(body)) / max(usual, 1)
    damping = SATURATION * (1 - LENGTH_PART + LENGTH_PART * length)
    score = sum(
        weight * counts[word] * (SATURATION + 1) / (counts[word] + damping)
        for word, weight in weights.items()
        if word in counts
    )
    held = sum(weight for word, weight in weights.items() if word in counts)
    return Found(key, score, held / max(sum(weights.values()), 1e-9))
