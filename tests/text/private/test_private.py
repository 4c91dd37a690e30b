"""All kinds together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.text.private import KINDS, PRECEDENCE, find_all, may_hold

PIECES = st.sampled_from(
    (
        "13812345678",
        "a@b.com",
        "4111 1111 1111 1111",
        "密码：",
        "+1 ",
        "E12345678",
        "护照",
        "::",
        "\n",
    )
)


def test_the_order_of_precedence_names_every_kind():
    assert sorted(PRECEDENCE) == sorted(KINDS)


def test_marks_of_an_earlier_round_are_not_private():
    assert find_all("电话[PHONE:13812345] password: [SECRET] card [BANK_CARD:41111111]") == []


def test_only_the_kinds_asked_for_are_sought():
    text = "电话13812345678，邮箱a@b.com"
    assert [kind for _, _, kind in find_all(text, ["email"])] == ["email"]
    assert not may_hold("电话13812345678", frozenset({"email"}))


@pytest.mark.slow
@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join))
def test_spans_are_in_order_inside_the_text_and_apart(text):
    end = 0
    for start, stop, kind in find_all(text):
        assert end <= start < stop <= len(text)
        assert kind in KINDS
        end = stop
