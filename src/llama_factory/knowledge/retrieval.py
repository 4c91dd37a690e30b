"""The passages that answer a question: found by words, by vectors, or by both."""

import logging
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llama_factory.core.errors import FactoryError
from llama_factory.knowledge.chunks import estimated_tokens
from llama_factory.knowledge.embedders import Embedder
from llama_factory.knowledge.index import IndexedChunk, KnowledgeIndex
from llama_factory.knowledge.refresh import Library
from llama_factory.knowledge.words import MAX_QUESTION_CHARACTERS, search_by_words

logger = logging.getLogger(__name__)

By = Literal["words", "vectors", "both"]
RANK_OFFSET = 60
"""Of reciprocal rank fusion: the k of Cormack, Clarke and Büttcher 2009 (SIGIR)."""
CANDIDATES = 50


@dataclass(frozen=True)
class Passage:
    """A passage that was found, and where it stands.

    Attributes:
        file: name of the document, as people are shown it.
        heading: the way to it through the document's headings; may be empty.
        place: `line 12` or `page 3`; may be empty.
        text: as it stands there.
        score: higher is better; comparable within one search only.
        digest: the same for as long as the document says this.
    """

    file: str
    heading: str
    place: str
    text: str
    score: float = 0.0
    digest: str = ""

    @staticmethod
    def of(chunk: IndexedChunk, score: float) -> "Passage":
        """A passage of the index."""
        place = f"page {chunk.page}" if chunk.page else f"line {chunk.line}" if chunk.line else ""
        return Passage(
            chunk.file, chunk.heading, place, chunk.text, round(score, 4), chunk.digest.hex()
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        where = {"file": self.file, "heading": self.heading, "place": self.place}
        return where | {"text": self.text, "score": self.score}


class Retriever:
    """Searches a library; threads may share it.

    Attributes:
        library: the documents and their index.
        embedder: of the vectors; None for words alone. May be set later.
    """

    def __init__(self, library: Library, embedder: Embedder | None = None) -> None:
        """Search a library, also by vectors where an embedder is given."""
        self.library = library
        self.embedder = embedder
        self._lock = threading.Lock()
        self._index: KnowledgeIndex | None = None
        self._inode = 0
        self._matrix: tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None

    def search(
        self,
        question: str,
        top_k: int | None = None,
        budget_tokens: int | None = None,
        by: By = "both",
    ) -> list[Passage]:
        """The passages that fit a question, best first; none where nothing fits.

        Args:
            question: as it was asked.
            top_k: most passages; None for the setting.
            budget_tokens: most tokens of all of them; None for the setting.
            by: what they are found by. Without an embedder, `both` are the words alone.
        """
        settings = self.library.settings
        most = settings.top_k if top_k is None else top_k
        budget = settings.budget_tokens if budget_tokens is None else budget_tokens
        with self._lock:
            try:
                index = self._opened()
                return self._search(index, question, by, most, budget)
            except sqlite3.DatabaseError as error:
                # the next refresh makes it again
                logger.warning("%s cannot be searched: %s", self.library.database, error)
                self._forget()
                return []

    def close(self) -> None:
        """Close the index."""
        with self._lock:
            self._forget()

    def _opened(self) -> KnowledgeIndex:
        """The index, opened anew where its file was replaced."""
        path = self.library.database
        inode = path.stat().st_ino if path.exists() else 0
        if self._index is None or inode != self._inode:
            self._forget()
            self._index = KnowledgeIndex(path)
            self._inode = path.stat().st_ino
        return self._index

    def _forget(self) -> None:
        if self._index is not None:
            self._index.close()
        self._index = self._matrix = None

    def _search(
        self, index: KnowledgeIndex, question: str, by: By, most: int, budget: int
    ) -> list[Passage]:
        vector = self._vector(question) if by != "words" else None
        with index.reading():
            by_words = self._by_words(index, question) if by != "vectors" else []
            by_vector = self._by_vector(index, vector) if vector is not None else []
            scores = fused([by_words, by_vector])
            ranked = sorted(scores, key=lambda key: (-scores[key], key))
            chunks = index.chunks(ranked[: 2 * most])
        passages = [Passage.of(chunk, scores[chunk.id]) for chunk in chunks]
        return within_budget(passages, most, budget)

    def _by_words(self, index: KnowledgeIndex, question: str) -> list[int]:
        least = self.library.settings.min_coverage
        found = search_by_words(index, question, CANDIDATES)
        return [each.id for each in found if each.coverage >= least]

    def _vector(self, question: str) -> np.ndarray[Any, Any] | None:
        """The question's vector; None where there is none, and then words alone decide."""
        if self.embedder is None or not question.strip():
            return None
        try:
            return self.embedder.question(question[:MAX_QUESTION_CHARACTERS])
        except FactoryError as error:
            logger.warning("searched by words alone: %s", error)
            return None

    def _by_vector(self, index: KnowledgeIndex, vector: np.ndarray[Any, Any]) -> list[int]:
        assert self.embedder is not None
        change = index.change()
        if self._matrix is None or self._matrix[0] != change:
            self._matrix = (change, *index.matrix())
        _, ids, matrix = self._matrix
        if matrix.shape[1:] != vector.shape:  # nothing embedded yet, or by another model
            return []
        cosines = products(matrix, vector)
        best = np.argsort(-cosines, kind="stable")[:CANDIDATES]
        return [int(ids[n]) for n in best if cosines[n] >= self.embedder.floor]


ROWS_AT_ONCE = 16_384


def products(matrix: np.ndarray[Any, Any], vector: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Exact products of all rows with a vector, in float32: [rows].

    The rows are widened a part at a time: the whole matrix in float32 would double the memory.
    """
    parts = range(0, len(matrix), ROWS_AT_ONCE)
    found = [matrix[at : at + ROWS_AT_ONCE].astype(np.float32) @ vector for at in parts]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.float32)


def fused(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    """Reciprocal rank fusion: by id, the sum of 1 / (60 + rank) over all rankings."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (RANK_OFFSET + rank)
    return scores


def within_budget(passages: Sequence[Passage], most: int, budget: int) -> list[Passage]:
    """The first passages that fit, none twice; one too long for what is left is passed over."""
    kept: list[Passage] = []
    texts: set[str] = set()
    for passage in passages:
        num_tokens = estimated_tokens(f"{passage.heading}\n{passage.text}")
        if len(kept) < most and num_tokens <= budget and passage.text not in texts:
            kept.append(passage)
            texts.add(passage.text)
            budget -= num_tokens
    return kept
