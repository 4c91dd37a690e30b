"""What every step that looks at one row must hold to, and how a row's texts are changed."""

import pytest

from llama_factory.core.types import Message
from llama_factory.data.cleaning import CLEANERS, RowStep
from tests.data.cleaning.rows import SAMPLES, chat, plain

ROW_STEPS = {name: part for name, part in CLEANERS.parts.items() if issubclass(part, RowStep)}


@pytest.mark.parametrize("name", ROW_STEPS)
def test_a_good_row_comes_back_as_the_same_object(name):
    step = CLEANERS.parse(name)
    rows = [
        make(text) for text in SAMPLES for make in (lambda t: chat("为什么会这样？ Why?", t), plain)
    ]
    assert [row for row in rows if step.clean(row) is not row] == []


@pytest.mark.parametrize("name", ROW_STEPS)
def test_a_step_says_what_it_does_and_explains_every_setting(name):
    assert ROW_STEPS[name].__doc__
    assert all(field.description for field in ROW_STEPS[name].model_fields.values())


def test_every_text_of_a_row_is_changed_and_the_rest_stays():
    row = chat("a", "b", rejected=Message("assistant", "c", weight=0.5), weight=2.0)
    key = row.key
    changed = row.with_texts(str.upper)
    assert [turn.content for turn in changed.messages] == ["A", "B"]
    assert changed.rejected == Message("assistant", "C", weight=0.5)
    assert (changed.group, changed.line, changed.weight) == (row.group, row.line, 2.0)
    assert changed.key != key


def test_a_row_whose_texts_stay_is_the_same_object():
    row = chat("a", "b", rejected=Message("assistant", "c"))
    assert row.with_texts(lambda text: text) is row
    assert row.with_texts(lambda text: text.replace("c", "d")).messages == row.messages
