"""Fields that a row holds and nothing reads."""

import pytest

from llama_factory.data.formats import Layout
from llama_factory.data.formats.unread import is_provenance, unread_fields
from llama_factory.data.reading import RawRow, to_example

USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
ALPACA = {"instruction": "q", "output": "a"}


def unread(row, entry=None):
    layout = None if entry is None else Layout.of(entry)
    example = to_example(RawRow(1, row), group="g", file="f", layout=layout)
    assert example.messages, example
    return list(unread_fields(row, layout))


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"text": "t", "label": "pos"}, ["label"]),
        ({"text": "t", "label": 0}, ["label"]),
        ({"text": "t", "title": "T", "url": "u", "id": 1}, ["title"]),
        ({"content": "t", "text": "u"}, ["content"]),
        (ALPACA | {"context": "c", "category": "x"}, ["context", "category"]),
        (ALPACA | {"completion": "b"}, ["completion"]),
        (ALPACA | {"reasoning": "hm", "thoughts": "hm"}, ["reasoning", "thoughts"]),
        (ALPACA | {"chosen": "b"}, ["chosen"]),
        (ALPACA | {"image": "a.png", "image_path": "a.png"}, ["image", "image_path"]),
        ({"question": "q", "answer": "a", "label": 3}, ["label"]),
        ({"question": "q", "answer": "a", "label": True}, []),
        ({"prompt": "q", "completion": "a", "label": 0}, []),
        ({"Question": "q", "Complex_CoT": "hm", "Response": "a"}, ["Complex_CoT"]),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2}, ["margin"]),
        ({"messages": [USER, BOT], "label": 3, "prompt": "q"}, ["prompt", "label"]),
        ({"messages": [USER | {"mood": "glad"}, BOT | {"mood": "", "audio": "x"}]},
         ["messages[].mood", "messages[].audio"]),
        ({"conversations": [HUMAN, GPT | {"content": "b"}]}, ["conversations[].content"]),
        ([USER, BOT | {"logprobs": [1]}], ["messages[].logprobs"]),
        ({"question": "q", "(column 3 without a name)": "x", "answer": "a"},
         ["(column 3 without a name)"]),
    ],
)  # fmt: skip
def test_what_looks_like_content_and_is_not_read_is_named(row, names):
    assert unread(row) == names


@pytest.mark.parametrize("nothing", [None, "", "nan", float("nan"), [], {}])
def test_a_field_that_holds_nothing_is_not(nothing):
    assert unread(ALPACA | {"context": nothing}) == []
    assert unread({"messages": [USER, BOT | {"mood": nothing}]}) == []


def test_everything_that_is_read_is_silent():
    names = ("input", "system", "history", "tools", "images", "kto_tag", "group", "weight")
    assert unread(ALPACA | dict.fromkeys(names) | {"group": "x", "weight": 2}) == []
    call = {"name": "f", "arguments": {}}
    turns = [
        USER,
        {"role": "assistant", "content": None, "function_call": call, "loss": False, "weight": 1},
        {"role": "tool", "content": "x", "name": "f", "tool_call_id": "1"},
        BOT | {"thinking": "hm"},
    ]
    assert unread({"messages": turns, "tools": []}) == []
    row = {"messages": [USER, BOT], "group": "g", "file": "f", "line": 1, "augmented_by": "typo"}
    assert unread(row) == []


def test_what_an_entry_does_not_name_is_not_read():
    row = {"q": "1", "a": "2", "input": "3", "group": "g", "weight": 2, "id": 7}
    named = {"columns": {"prompt": "q", "response": "a"}}
    assert unread(row, named) == ["input", "group", "weight"]
    assert unread(ALPACA | {"input": "i", "history": [["1", "2"]]}, {}) == ["history"]
    talk = {"conversations": [HUMAN, GPT | {"weight": 0}], "instruction": "x", "chosen": GPT}
    names = ["instruction", "chosen", "conversations[].weight"]
    assert unread(talk, {"formatting": "sharegpt"}) == names


@pytest.mark.parametrize(
    "name",
    [
        *("id", "ID", "idx", "prompt_id", "promptId", "uuid", "source", "data_source", "url"),
        *("created_at", "createdAt", "date", "lang", "language", "license", "model", "version"),
        *("meta", "metadata", "extra_info", "num_tokens", "token_count", "length", "sha256"),
        *("split", "Unnamed: 0", "__index_level_0__", "file_name", "original-dataset"),
    ],
)
def test_provenance_is_not_reported(name):
    assert is_provenance(name)
    assert unread(ALPACA | {name: "x"}) == []


@pytest.mark.parametrize(
    "name",
    [
        *("label", "labels", "category", "context", "answer_key", "answerKey", "title", "image"),
        *("image_path", "audio_url", "score", "rating", "topic", "target", "reasoning", "cot"),
        *("system_message", "user_input", "ground_truth", "passage", "solution", "choices"),
    ],
)
def test_names_of_content_are_not(name):
    assert not is_provenance(name)
