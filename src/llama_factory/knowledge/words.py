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
PRIOR = 100
"""Passages without any of a question's words that are imagined when its coverage is computed: in
a small collection nearly every word is rare."""
FUNCTION_WORDS = frozenset(
    """
    a an the of in on at to for from by with about and or not no be is are was were am do does did
    can could may might must shall should will would have has had i me my we our you your it its
    they them this that these those there here what which who whom whose when where why how much
    many any some if as than then so please tell
    的 了 吗 呢 吧 啊 是 有 在 和 与 或 我 我们 你 你们 您 它 这 那 这个 那个 什么 怎么 怎样
    如何 为什么 哪 哪里 哪个 哪些 哪儿 谁 几 多 多少 多久 能 可以 会 要 应该 请 请问 把 被 给
    对 从 到 用 就 都 也 还
    """.split()  # noqa: SIM905
)
"""What kind of question it is, and not what it is about; as `search_words` gives them."""
MANY = 1_000
"""Passages from which common words are left out of the search: it would rank nearly all."""


@dataclass(frozen=True)
class Match:
    """A passage that was found.

    Attributes:
        id: of the passage.
        score: higher is better; comparable within one search only.
        coverage: how much of the question's words it holds, each weighed by how rare it is.
    """

    id: int
    score: float
    coverage: float


def search_by_words(index: KnowledgeIndex, question: str, most: int) -> list[Match]:
    """The passages with the question's words, best first."""
    words = _content_words(question[:MAX_QUESTION_CHARACTERS])
    num = index.num_chunks()
    frequencies = index.frequencies(words)
    weights = {word: _weight(count, num) for word, count in frequencies.items()}
    parts = {word: _weight(count, num + PRIOR) for word, count in frequencies.items()}
    rows = index.holding(_searched(frequencies, num), TITLE_WEIGHT, CANDIDATES)
    if not rows:
        return []
    texts = [(key, title.split(), body.split()) for key, title, body in rows]
    usual = sum(len(title) + len(body) for _, title, body in texts) / len(texts)
    found = [
        Match(key, _score(counts, weights, length / max(usual, 1)), _coverage(counts, parts))
        for key, counts, length in map(_counted, texts)
    ]
    return sorted(found, key=lambda each: (-each.score, each.id))[:most]


def _searched(frequencies: Mapping[str, int], num: int) -> list[str]:
    known = [word for word, count in frequencies.items() if count]
    if num < MANY:
        return known
    return [word for word in known if frequencies[word] <= COMMON * num] or known


def _weight(count: int, num: int) -> float:
    return math.log1p((num - count + 0.5) / (count + 0.5))


def _content_words(question: str) -> list[str]:
    """The different words of a question; function words only where there are no others."""
    words = list(dict.fromkeys(search_words(question)))
    return ([word for word in words if word not in FUNCTION_WORDS] or words)[:MAX_WORDS]


Text = tuple[int, list[str], list[str]]
"""Id of a passage, words of its title, words of its body."""


def _counted(text: Text) -> tuple[int, dict[str, float], int]:
    """Id, how often each word counts, and how many words there are."""
    key, title, body = text
    counts: dict[str, float] = dict(Counter(body))
    for word in title:
        counts[word] = counts.get(word, 0) + TITLE_WEIGHT
    return key, counts, len(title) + len(body)


def _score(counts: Mapping[str, float], weights: Mapping[str, float], length: float) -> float:
    """BM25; `length` is that of the passage, the usual one being 1."""
    damping = SATURATION * (1 - LENGTH_PART + LENGTH_PART * length)
    return sum(
        weight * counts[word] * (SATURATION + 1) / (counts[word] + damping)
        for word, weight in weights.items()
        if word in counts
    )


def _coverage(counts: Mapping[str, float], parts: Mapping[str, float]) -> float:
    held = sum(part for word, part in parts.items() if word in counts)
    return held / max(sum(parts.values()), 1e-9)
