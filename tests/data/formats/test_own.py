"""Rows that we wrote are read back exactly."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.core.types import TEXT, Example, Message, ToolCall
from llama_factory.data.formats.row_values import MISSING_WORDS
from llama_factory.data.reading import RawRow, to_example

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)
weights = st.floats(0, 100)
objects = st.dictionaries(texts, st.integers() | texts, max_size=2).map(json.dumps)
calls = st.lists(st.builds(ToolCall, texts, objects), min_size=1, max_size=2).map(tuple)
users = st.builds(Message, st.just("user"), texts, weights)
results = st.lists(st.builds(Message, st.just("tool"), st.text(max_size=3), weights), min_size=1)
answers = st.builds(Message, st.just("assistant"), texts, weights) | st.builds(
    Message, st.just("assistant"), st.just("") | texts, weights, calls
)
systems = st.lists(st.builds(Message, st.just("system"), texts), max_size=1)


@st.composite
def talks(draw):
    turns = [*draw(systems), draw(users), draw(answers)]
    for _ in range(draw(st.integers(0, 2))):
        turns += draw(results | st.lists(users, min_size=1, max_size=1))
        turns.append(draw(answers))
    return tuple(turns)


plain = st.builds(lambda text: (Message(TEXT, text),), texts)
examples = st.builds(
    Example,
    messages=talks(),
    group=texts,
    file=texts,
    line=st.integers(1, 10**9),
    weight=st.floats(0.001, 1e6),
    tools=st.just("") | st.just('[{"name": "查"}]'),
    rejected=st.none() | answers,
    is_desirable=st.none() | st.booleans(),
    images=st.lists(texts, max_size=2).map(tuple),
    augmented_by=st.just("") | texts,
) | st.builds(Example, plain, texts, texts, st.integers(1, 9), augmented_by=texts)


@pytest.mark.slow
@given(examples)
def test_what_is_written_is_read_back_exactly(example):
    row = json.loads(json.dumps(example.to_json(), ensure_ascii=False))
    assert to_example(RawRow(7, row), group="other", file="other.jsonl", layout=None) == example


@pytest.mark.parametrize("word", sorted(MISSING_WORDS - {""}))
def test_words_for_an_empty_cell_are_texts_like_others(word):
    turns = (Message("system", word), Message("user", word), Message("assistant", word))
    example = Example(turns, word, word, 3, images=(word,), augmented_by=word)
    row = json.loads(json.dumps(example.to_json()))
    assert to_example(RawRow(7, row), group="other", file="other.jsonl", layout=None) == example


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"line": "7"}, "'line' must be a whole number."),
        ({"rejected": {"role": "assistant"}}, "'content' is missing; the row has role."),
        ({"is_desirable": 3}, "'is_desirable' must be true or false (or 1 or 0), this is a number"),
        ({"images": [3]}, "'images' must be text, this is a number."),
        ({"messages": [{"role": "user", "content": "q"}]}, "the last message must be the"),
    ],
)
def test_one_that_was_changed_by_hand_is_checked(more, told):
    turns = (Message("user", "q"), Message("assistant", "a"))
    row = Example(turns, "g", "f.jsonl", 3).to_json() | more
    refused = to_example(RawRow(7, row), group="g", file="x.jsonl", layout=None)
    assert (refused.file, refused.line) == ("x.jsonl", 7)
    assert told in refused.reason
