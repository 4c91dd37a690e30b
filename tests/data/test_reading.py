import json

import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.types import Example, Message
from llama_factory.data.reading import Refused, read_examples

GOOD = {"instruction": "Ask?", "input": "", "output": "Answer."}


def rows_of(tmp_path, *rows, name="faq.jsonl"):
    path = tmp_path / name
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return list(read_examples(path))


def reason(tmp_path, row):
    (refused,) = rows_of(tmp_path, row)
    assert isinstance(refused, Refused)
    assert refused.file == "faq.jsonl"
    assert refused.line == 1
    return refused.reason


def test_the_input_follows_the_instruction_on_its_own_line(tmp_path):
    (row,) = rows_of(tmp_path, {"instruction": "Sum up.", "input": "Text.", "output": "Short."})
    assert row.messages == (Message("user", "Sum up.\nText."), Message("assistant", "Short."))
    assert (row.group, row.file, row.line) == ("faq", "faq.jsonl", 1)


def test_system_and_history_come_before_the_question(tmp_path):
    (row,) = rows_of(tmp_path, GOOD | {"system": "Be kind.", "history": [["a", "b"]]})
    assert [turn.role for turn in row.messages] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
    ]


def test_messages_are_read_as_they_are(tmp_path):
    talk = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好！"}]
    (row,) = rows_of(tmp_path, {"messages": talk, "group": "zh", "weight": 2})
    assert (row.answer, row.group, row.weight) == ("您好！", "zh", 2.0)
    assert Example.from_json(row.to_json()) == row


def test_a_json_list_counts_rows(tmp_path):
    rows = rows_of(tmp_path, json.dumps([GOOD, {"output": "x"}]), name="faq.json")
    assert rows[0].line == 1
    assert (rows[1].file, rows[1].line) == ("faq.json", 2)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"instuction": "a", "output": "b"}, "Did you mean 'instruction'?"),
        ({"instruction": "a", "output": " "}, "'output' is empty."),
        ({"instruction": 3, "output": "b"}, "'instruction' must be text, this is a number."),
        ({"instruction": "a", "output": None}, "'output' must be text, this is null."),
        ([1], "a row must be a JSON object, this is a list."),
        (GOOD | {"history": ["a"]}, "'history' must be a list of [question, answer] pairs"),
        (GOOD | {"weight": 0}, "'weight' must be a number above 0."),
        (GOOD | {"group": 7}, "'group' must be text."),
        ({"messages": []}, "'messages' must be a list of at least one"),
        ({"messages": [{"role": "user", "content": "a"}]}, "the last message must be the"),
        (
            {"messages": [{"role": "asistant", "content": "a"}]},
            "message 1: role 'asistant' is unknown. Did you mean 'assistant'?",
        ),
        (
            {"messages": [{"role": "assistant", "content": "a"}]},
            "message 1 is from 'assistant' where 'user' must speak.",
        ),
        (
            {"messages": [{"role": "user", "content": ["a"]}]},
            "message 1: 'content' must be text, this is a list.",
        ),
    ],
)
def test_a_bad_row_says_what_is_wrong(tmp_path, row, told):
    assert told in reason(tmp_path, row)


def test_broken_lines_do_not_stop_the_rest(tmp_path):
    rows = rows_of(tmp_path, GOOD, '{"instruction": "x\n', GOOD | {"output": "B"}, '{"instr')
    assert [type(row) for row in rows] == [Example, Refused, Example, Refused]
    assert "not valid JSON" in rows[1].reason
    assert "half-written" not in rows[1].reason
    assert "half-written" in rows[3].reason
    assert rows[3].text == '{"instr'


def test_a_byte_order_mark_is_no_problem(tmp_path):
    path = tmp_path / "faq.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(list(read_examples(path))) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"a": "é"}'.encode("latin-1"), "line 1 is not UTF-8 (byte 0xe9)"),
        ("a.json", b'[{"instruction": "a"', "not valid JSON at line 1"),
        ("a.json", b'{"instruction": "a"}', "must hold a list of rows"),
        ("a.jsnl", b"", "files of kind '.jsnl' cannot be read yet. Did you mean '.jsonl'?"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, content, told):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_examples(path))
    assert told in str(caught.value)
