import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.core.types import Example, Message, ToolCall
from llama_factory.data.cleaning import Dropped
from llama_factory.data.cleaning.empty import Empty
from tests.data.cleaning.rows import SAMPLES, chat, plain

LONG = "Describe the three most important rules of road safety for children."


def turns(*contents):
    roles = ("user", "assistant") * len(contents)
    said = tuple(Message(role, text) for role, text in zip(roles, contents, strict=False))
    return Example(said, "g", "f", 1)


def test_real_answers_stay():
    for row in (*map(plain, SAMPLES), *(chat("请回答这个问题。", text) for text in SAMPLES)):
        assert Empty().clean(row) is row


def test_a_placeholder_is_no_answer():
    words = (
        "N/A",
        "n/a.",
        "无",
        "无。",
        "TODO",
        "...",
        "…",
        "null",
        " NaN ",
        "-",
        "待补充",
        "暂无！",
    )
    reasons = [Empty().clean(chat("What is it?", word)) for word in words]
    assert dict(zip(words, reasons, strict=True)) == dict.fromkeys(
        words, Dropped("the answer is a placeholder")
    )
    reasons = [Empty().clean(plain(word)) for word in words]
    assert dict(zip(words, reasons, strict=True)) == dict.fromkeys(
        words, Dropped("the text is a placeholder")
    )


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Who wrote it? Answer N/A if nobody knows.", "N/A"),
        ("有错误就写出来，没有就写“无”。", "无"),
        ("What does null mean?", "null"),
        ("Which value is it?", "None"),
        ("Which value is it?", "No"),
    ],
)
def test_a_placeholder_that_was_asked_for_is_an_answer(prompt, answer):
    row = chat(prompt, answer)
    assert Empty().clean(row) is row


def test_placeholders_are_a_setting():
    row = chat("What is it?", "N/A")
    assert Empty(placeholders=()).clean(row) is row
    step = Empty(placeholders=("No answer.",))
    assert step.clean(chat("What?", "no answer")) == Dropped("the answer is a placeholder")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (chat("Why?", " \n"), "an answer is empty"),
        (turns("Why?", " ", "And now?", "Yes."), "an answer is empty"),
        (chat("　", "Yes."), "the question is empty"),
        (plain("\n "), "the text is empty"),
        (chat("Why?", "So.", rejected=Message("assistant", " ")), "the rejected answer is empty"),
        (chat("Why?", "", is_desirable=False), "an answer is empty"),
    ],
)
def test_emptiness_is_told(row, reason):
    assert Empty().clean(row) == Dropped(reason)


def test_an_answer_that_calls_a_tool_is_not_empty():
    call = Message("assistant", "", tool_calls=(ToolCall("f", "{}"),))
    row = Example((Message("user", "Do it."), call), "g", "f", 1)
    assert Empty().clean(row) is row


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (LONG, LONG),
        (LONG, LONG.upper().replace(" ", "\n")),
        (LONG, f"{LONG} {LONG}"),
        (LONG, f"{LONG}\n\nAnswer:"),
        ("今天的天气怎么样？", "今天的天气怎么样"),
        ("请介绍一下北京的历史、文化、美食、交通、气候、人口、经济、教育以及那里最著名的旅游景点和建筑。",
         "请介绍一下北京的历史、文化、美食、交通、气候、人口、经济、教育以及那里最著名的旅游景点和建筑。\n答："),
    ],
)  # fmt: skip
def test_an_echo_is_no_answer(prompt, answer):
    assert Empty().clean(chat(prompt, answer)) == Dropped("the answer repeats the prompt")
    row = chat(prompt, answer)
    assert Empty(echoes=False).clean(row) is row


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Good morning", "Good morning!"),
        ("你好", "你好！"),
        (LONG, f"{LONG} First, look left and right."),
        ("Complete: 2 + 2 + 2 + 2 + 2 + 2 + 2 + 2 + 2 + 2 =", "2 + 2 + 2 + 2 = 8, and so on: 20"),
        ("翻译成英文：今天的天气很好。", "The weather is nice today."),
    ],
)
def test_greetings_and_continuations_are_answers(prompt, answer):
    row = chat(prompt, answer)
    assert Empty().clean(row) is row


def test_a_system_prompt_or_earlier_turns_may_ask_for_the_same_text():
    right = "I am going to the cinema tomorrow."
    system = Message("system", "Correct the grammar.")
    row = Example((system, *chat(right, right).messages), "g", "f", 1)
    assert Empty().clean(row) is row
    row = turns("I send sentences, you correct them.", "Fine.", right, right)
    assert Empty().clean(row) is row


def test_what_people_disliked_may_be_a_placeholder():
    row = chat("What is it?", "N/A", is_desirable=False)
    assert Empty().clean(row) is row


@given(st.text(), st.text())
def test_no_text_makes_it_fail(prompt, answer):
    row = chat(prompt, answer)
    result = Empty().clean(row)
    assert result is row or isinstance(result, Dropped)
