"""Passages: of bearable length, torn at sentences, with overlap, never across headings."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from llama_factory.knowledge.chunks import OVERLAP, chunks_of, estimated_tokens
from llama_factory.knowledge.documents import Block


def test_short_parts_stay_together_and_headings_divide():
    blocks = [Block("One.", ("A",), 1), Block("Two.", ("A",), 3), Block("Three.", ("B",), 5)]
    found = [(each.text, each.heading, each.line) for each in chunks_of(blocks, 100)]
    assert found == [("One.\nTwo.", "A", 1), ("Three.", "B", 5)]


def test_a_long_text_is_torn_at_sentences_and_passages_overlap():
    sentences = [f"This is the sentence with the number {n} in it." for n in range(60)]
    found = list(chunks_of([Block(" ".join(sentences))], 100))
    assert len(found) > 5
    for before, after in pairwise(found):
        assert before.text.endswith(".")
        first = after.text.split(".")[0]
        assert first in before.text
        assert after.text.split(". ")[-1] not in before.text
    assert all(estimated_tokens(each.text) <= 100 * (1 + OVERLAP) for each in found)


def test_chinese_is_torn_at_its_own_marks():
    found = list(chunks_of([Block("保修期为三十一个月。" * 30)], 60))
    assert len(found) >= 5
    assert all(each.text.endswith("。") for each in found)


def test_rows_stand_alone_and_a_torn_table_repeats_its_head():
    rows = [Block(f"name: {n}", line=n, is_alone=True) for n in range(3)]
    assert [each.text for each in chunks_of(rows, 100)] == ["name: 0", "name: 1", "name: 2"]
    table = [Block(f"| {n} | a value of some length |", lead="| key | value |") for n in range(40)]
    found = list(chunks_of(table, 80))
    assert len(found) > 3
    assert all(each.text.startswith("| key | value |\n| ") for each in found)


def test_a_passage_says_where_its_first_new_line_is():
    text = "\n".join(f"Line {n} of a long paragraph without any other end." for n in range(1, 40))
    found = list(chunks_of([Block(text, line=10)], 100))
    for each in found:
        assert each.text.startswith(f"Line {each.line - 9} of")


@settings(max_examples=40)
@given(st.lists(st.text(max_size=400), max_size=5), st.integers(50, 120))
def test_no_text_is_lost_and_none_is_too_long(paragraphs, most):
    blocks = [Block(text) for text in paragraphs if text.strip()]
    found = list(chunks_of(blocks, most))
    said = "".join("".join(each.text for each in found).split())
    for block in blocks:
        for word in block.text.split():
            if len(word) < 20:
                assert word[:1] in said
    assert all(estimated_tokens(each.text) <= 2 * most for each in found)
    assert bool(found) == bool(blocks)
