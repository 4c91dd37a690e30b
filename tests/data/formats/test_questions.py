"""Rows that are asked and not taught."""

import pytest

from llama_factory.core.types import TEXT, Example, Message
from llama_factory.data.formats import Layout
from llama_factory.data.reading import RawRow, Refused, read_examples, to_example

USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {}}]}
ASKED = (Message("user", "q"), Message("assistant", ""))


def read(row, entry=None, *, asked=True):
    layout = None if entry is None else Layout.of(entry)
    return to_example(RawRow(1, row), group="g", file="f", layout=layout, may_lack_answer=asked)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q"},
        {"instruction": "q", "input": ""},
        {"instruction": "q", "input": "", "output": ""},
        {"instruction": "q", "output": None},
        {"instruction": "q", "output": float("nan")},
        {"instruction": "q", "output": " "},
        {"instruction": "", "input": "q", "output": ""},
        {"question": "q"},
        {"Question": "q", "id": 3},
        {"prompt": "q"},
        {"prompt": "q", "completion": None},
        {"prompt": [USER]},
        {"prompt": [USER], "completion": []},
        {"query": "q", "source": "x"},
        {"input": "q"},
        {"messages": [USER]},
        {"messages": [USER, {"role": "assistant", "content": ""}]},
        {"messages": [USER, {"role": "assistant", "content": None}]},
        {"conversations": [HUMAN]},
        {"conversations": [HUMAN, {"from": "gpt", "value": ""}]},
        [USER],
    ],
)
def test_a_question_without_an_answer_expects_an_empty_one(row):
    assert read(row).messages == ASKED
    assert isinstance(read(row, asked=False), Refused)  # nothing that is taught may lack one


def test_what_comes_before_the_question_is_asked_too():
    row = {"instruction": "q", "input": "i", "system": "s", "history": [["1", "2"]], "output": ""}
    assert [turn.content for turn in read(row).messages] == ["s", "1", "2", "q\ni", ""]
    turns = [USER, CALL, {"role": "tool", "content": "x"}]
    assert [turn.role for turn in read({"messages": turns}).messages][2:] == ["tool", "assistant"]
    assert read({"messages": [USER, BOT, USER], "tools": [{"name": "f"}]}).tools


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "output": "a"},
        {"prompt": [USER], "completion": [BOT]},
        {"messages": [USER, BOT]},
        {"messages": [USER, CALL]},
        {"conversations": [HUMAN, GPT]},
        {"text": "t"},
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "completion": "a", "label": 1},
    ],
)
def test_an_answer_that_is_there_is_expected(row):
    assert read(row) == read(row, asked=False)
    assert isinstance(read(row), Example)


def test_a_question_may_be_laid_out_by_an_entry():
    named = {"columns": {"prompt": "q", "response": "a"}}
    assert read({"q": "q"}, named).messages == read({"q": "q", "a": ""}, named).messages == ASKED
    assert read({"conversations": [HUMAN]}, {"formatting": "sharegpt"}).messages == ASKED
    text = {"columns": {"prompt": "text"}}
    assert read({"text": "t"}, text).messages == (Message(TEXT, "t"),)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": ""}, "'instruction' is empty."),
        ({"instruction": "q", "output": 3}, "'output' must be text, this is a number."),
        ({"qestion": "q"}, "fields qestion are no known layout"),
        ({"messages": []}, "'messages' must be a list of at least one user"),
        ({"messages": [BOT]}, "message 1 is from 'assistant' where 'user' must speak."),
        ({"messages": [USER, USER]}, "message 2 is from 'user' where 'assistant' must speak."),
        ({"messages": [{"role": "system", "content": "s"}]}, "message 2 is from 'assistant'"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "'rejected' is empty."),
        (USER, "this is one turn of a conversation, not a row."),
    ],
)
def test_what_is_wrong_with_a_question_is_reported(row, reason):
    refused = read(row)
    assert isinstance(refused, Refused), refused
    assert refused.reason.startswith(reason), refused.reason


def test_a_file_of_questions_is_read_where_it_is_asked(tmp_path):
    (tmp_path / "q.csv").write_text("question,id\nWhy?,1\nHow?,2\n")
    found = [
        row.prompt[0].content for row in read_examples(tmp_path / "q.csv", may_lack_answer=True)
    ]
    assert found == ["Why?", "How?"]
    assert all(isinstance(row, Refused) for row in read_examples(tmp_path / "q.csv"))
