"""Passages are found in English and Chinese, by words, by vectors, and by both."""

import numpy as np
import pytest

from llama_factory.core.errors import DataError
from llama_factory.knowledge.embedders import unit
from llama_factory.knowledge.retrieval import Passage, Retriever, fused, products, within_budget
from tests.knowledge.books import filled, library

MEANINGS = {"lamp": 0, "light": 0, "warranty": 1, "guarantee": 1, "delivery": 2, "shipping": 2}


class Meanings:
    """Vectors of what some words mean; texts of none of them mean something else."""

    name, floor = "meanings", 0.4

    def __init__(self):
        self.num_texts = 0

    def passages(self, texts):
        self.num_texts += len(texts)
        return np.array([self.question(text) for text in texts])

    def question(self, text):
        vector = np.zeros(4, dtype=np.float32)
        vector[3] = 0.01
        for word, place in MEANINGS.items():
            vector[place] += text.lower().count(word)
        return unit(vector)


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("How long is the warranty of the lamp?", "Lamp L7 > Warranty"),
        ("WARRANTY", "Lamp L7 > Warranty"),
        ("保修多久？", "台灯 L7 > 保修"),
        ("退货", "台灯 L7 > 退货"),
        ("十四天内", "台灯 L7 > 退货"),
        ("When do parcels arrive?", "Lamp L7 > Delivery"),
    ],
)
def test_words_of_both_languages_are_found(tmp_path, question, heading):
    best = filled(tmp_path, min_coverage=0).search(question)[0]
    assert best.heading == heading
    assert best.place.startswith("line ")


def test_a_word_that_is_everywhere_does_not_make_order_random(tmp_path):
    books = library(tmp_path, min_coverage=0)
    for n in range(4):
        text = "The lamp and the lamp again." if n == 2 else f"A lamp among many things {n}."
        (books.folder / f"{n}.txt").write_text(text)
    books.refresh()
    assert Retriever(books).search("lamp")[0].file == "2.txt"
    assert Retriever(books).search("lamp")[0].score > 0


def test_nothing_is_found_where_nothing_fits(tmp_path):
    retriever = filled(tmp_path)
    assert retriever.search("What is the capital of France?") == []
    assert retriever.search("") == []
    assert retriever.search('" OR * NEAR( title:') == []
    assert library(tmp_path / "other").refresh().read == []
    assert Retriever(library(tmp_path / "other")).search("lamp") == []


def test_a_huge_question_is_cut():
    from llama_factory.knowledge import words

    assert words.MAX_QUESTION_CHARACTERS * words.MAX_WORDS < 1_000_000


def test_the_budget_and_the_number_of_passages_hold():
    passages = [Passage(f"{n}.md", "", "", f"{n} " + "word " * 50) for n in range(9)]
    assert len(within_budget(passages, 4, 10_000)) == 4
    assert len(within_budget(passages, 9, 150)) == 2
    short = Passage("s.md", "", "", "short")
    assert within_budget([passages[0], short], 4, 20) == [short]
    assert within_budget([short, short], 4, 100) == [short]


def test_vectors_find_other_words_and_both_are_fused(tmp_path):
    plain, embedder = filled(tmp_path), Meanings()
    assert plain.search("guarantee") == []
    assert plain.library.embed(embedder) == 4
    retriever = Retriever(plain.library, embedder)
    assert retriever.search("guarantee")[0].heading == "Lamp L7 > Warranty"
    assert retriever.search("guarantee", by="words") == []
    assert retriever.search("shipping of parcels")[0].heading == "Lamp L7 > Delivery"


def test_only_changed_passages_are_embedded_again_and_old_vectors_go(tmp_path):
    books, embedder = filled(tmp_path).library, Meanings()
    books.embed(embedder)
    path = books.folder / "lamp.md"
    path.write_text(path.read_text().replace("31 months", "36 months"))
    books.refresh()
    assert books.embed(embedder) == 1
    assert books.embed(embedder) == 0
    with books.opened() as index:
        assert index.matrix()[1].shape == (4, 4)
        assert index.matrix()[1].dtype == np.float16


def test_vectors_of_another_model_are_made_again(tmp_path):
    books, embedder = filled(tmp_path).library, Meanings()
    books.embed(embedder)
    other = Meanings()
    other.name = "other"
    assert books.embed(other) == 4


def test_words_alone_decide_where_the_embedder_fails(tmp_path):
    class Down(Meanings):
        def question(self, text):
            raise DataError("no answer")

    books = filled(tmp_path).library
    books.embed(Meanings())
    assert Retriever(books, Down()).search("warranty")


def test_fusion_is_the_sum_of_reciprocal_ranks():
    scores = fused([[1, 2], [2, 3]])
    assert scores == {1: 1 / 61, 2: 1 / 62 + 1 / 61, 3: 1 / 62}


def test_products_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40_000, 8)).astype(np.float16)
    vector = rng.normal(size=8).astype(np.float32)
    assert np.allclose(products(matrix, vector), matrix.astype(np.float32) @ vector, atol=1e-5)
