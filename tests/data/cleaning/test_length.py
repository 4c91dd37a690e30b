import pytest

from llama_factory.core.types import Example, Message, ToolCall
from llama_factory.data.cleaning import Dropped
from llama_factory.data.cleaning.length import LengthBounds
from tests.data.cleaning.rows import SAMPLES, chat, plain


def test_the_defaults_let_every_real_row_through():
    for text in SAMPLES:
        for row in (chat(text, text), plain(text)):
            assert LengthBounds().clean(row) is row


@pytest.mark.parametrize(
    ("settings", "row", "reason"),
    [
        ({"min_prompt": 3}, chat("ab", "c"), "prompt shorter than 3 characters"),
        ({"max_prompt": 3}, chat("abcd", "c"), "prompt longer than 3 characters"),
        ({"min_answer": 3}, chat("a", "是的"), "answer shorter than 3 characters"),
        ({"max_answer": 3}, chat("a", "bcde"), "answer longer than 3 characters"),
        ({"min_text": 3}, plain("ab"), "text shorter than 3 characters"),
        ({"max_text": 3}, plain("abcd"), "text longer than 3 characters"),
        ({}, plain(""), "text shorter than 1 characters"),
        (
            {"max_answer": 3},
            chat("a", "b", rejected=Message("assistant", "long")),
            "rejected answer longer than 3 characters",
        ),
    ],
)
def test_a_broken_bound_is_named(settings, row, reason):
    assert LengthBounds(**settings).clean(row) == Dropped(reason)


def test_an_answer_that_calls_a_tool_may_be_empty():
    call = Message("assistant", "", tool_calls=(ToolCall("f", '{"x": 1}'),))
    row = Example((Message("user", "Do it."), call), "g", "f", 1)
    assert LengthBounds(min_answer=50).clean(row) is row
    assert LengthBounds(max_answer=5).clean(row) == Dropped("answer longer than 5 characters")
