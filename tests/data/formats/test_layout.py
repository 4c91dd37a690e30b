"""What `dataset_info.json` means by columns and tags."""

import pickle

import pytest

from llama_factory.core.errors import DataError
from llama_factory.core.types import TEXT, Example, Message
from llama_factory.data.formats import Columns, Layout, Tags
from llama_factory.data.reading import RawRow, to_example


def read(row, entry):
    return to_example(RawRow(1, row), group="g", file="f", layout=Layout.of(entry))


def test_without_columns_and_tags_the_defaults_hold():
    assert Layout.of({}) == Layout("alpaca", False, Columns(), Tags())
    assert (Columns().prompt, Columns().messages, Columns().system) == (
        "instruction",
        "conversations",
        None,
    )
    assert (Tags().user_tag, Tags().function_tag) == ("human", "function_call")


def test_giving_columns_sets_all_others_to_none():
    row = {"question": "q", "input": "left out", "output": "also", "system": "s", "answer": "a"}
    example = read(row, {"columns": {"prompt": "question", "response": "answer"}})
    assert example.messages == (Message("user", "q"), Message("assistant", "a"))


def test_the_system_column_is_read_only_where_it_is_named():
    row = {"instruction": "q", "output": "a", "system": "s"}
    assert read(row, {}).messages[0].role == "user"
    named = {"prompt": "instruction", "response": "output", "system": "system"}
    assert read(row, {"columns": named}).messages[0] == Message("system", "s")


def test_giving_tags_sets_all_others_to_none():
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "u", "assistant_tag": "a"}
    entry = {"formatting": "sharegpt", "tags": tags}
    turns = [{"role": "u", "content": "q"}, {"role": "a", "content": "x"}]
    assert read({"conversations": turns}, entry).answer == "x"
    with_system = [{"role": "system", "content": "s"}, *turns]
    told = read({"conversations": with_system}, entry).reason
    assert told == "message 1: role 'system' is unknown. Known: u, a."


def test_a_leading_system_message_overrides_the_system_column():
    columns = {"messages": "conversations", "system": "rule"}
    entry = {"formatting": "sharegpt", "columns": columns}
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    leading = [{"from": "system", "value": "in"}, *turns]
    assert read({"conversations": turns, "rule": "out"}, entry).messages[0].content == "out"
    assert read({"conversations": leading, "rule": "out"}, entry).messages[0].content == "in"


def test_a_row_with_a_prompt_only_is_plain_text():
    example = read({"text": "正文"}, {"columns": {"prompt": "text"}})
    assert example.messages == (Message(TEXT, "正文"),)


def test_a_missing_answer_is_not_plain_text():
    told = read({"instruction": "q"}, {}).reason
    assert told == "'output' is missing; the row has instruction."


def test_history_is_taught_too():
    columns = {"prompt": "q", "response": "a", "history": "h"}
    example = read({"q": "3", "a": "4", "h": [["1", "2"]]}, {"columns": columns})
    assert [turn.content for turn in example.messages] == ["1", "2", "3", "4"]


def test_ranking_rows_have_two_answers():
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    example = read({"q": "1", "good": "2", "bad": "3"}, {"ranking": True, "columns": columns})
    assert (example.answer, example.rejected) == ("2", Message("assistant", "3"))
    columns = {"messages": "conversations", "chosen": "good", "rejected": "bad"}
    entry = {"ranking": True, "formatting": "sharegpt", "columns": columns}
    row = {
        "conversations": [{"from": "human", "value": "1"}],
        "good": {"from": "gpt", "value": "2"},
        "bad": {"from": "gpt", "value": "3"},
    }
    example = read(row, entry)
    assert (example.answer, example.rejected) == ("2", Message("assistant", "3"))


def test_openai_rows_keep_their_tool_calls():
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
    }
    entry = {"formatting": "openai", "columns": {"messages": "messages"}, "tags": tags}
    call = {"function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "a"},
    ]
    example = read({"messages": turns}, entry)
    assert [turn.role for turn in example.messages] == [turn["role"] for turn in turns]
    assert len(example.messages[1].tool_calls) == 2


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"formatting": "alpacca"}, "formatting 'alpacca' is unknown. Did you mean 'alpaca'?"),
        ({"ranking": "yes"}, "ranking must be true or false, not 'yes'."),
        ({"columns": ["prompt"]}, "columns must be an object."),
        ({"columns": {"promt": "a"}}, "columns: 'promt' is unknown. Did you mean 'prompt'?"),
        ({"columns": {"prompt": 1}}, "columns: 'prompt' must be text."),
        ({"tags": {"user_tga": "a"}}, "tags: 'user_tga' is unknown. Did you mean 'user_tag'?"),
    ],
)
def test_wrong_entries_are_reported(entry, told):
    with pytest.raises(DataError) as caught:
        Layout.of(entry)
    assert told in str(caught.value)


def test_a_layout_goes_to_other_processes():
    layout = Layout.of({"formatting": "sharegpt", "tags": {"role_tag": "role"}})
    assert pickle.loads(pickle.dumps(layout)) == layout


def test_columns_and_tags_that_no_row_has_are_named():
    columns = {"prompt": "qestion", "response": "answer"}
    told = read({"question": "q", "answer": "a"}, {"columns": columns}).reason
    assert told == "'qestion' is missing; the row has question, answer."
    entry = {"formatting": "sharegpt"}
    told = read({"messages": []}, entry).reason
    assert told == "'conversations' is missing; the row has messages."
    row = {"conversations": [{"role": "user", "content": "q"}]}
    told = read(row, entry).reason
    assert told == "message 1: 'from' is missing; the turn has role, content."
    assert isinstance(read({"instruction": "q", "output": "a"}, {}), Example)


@pytest.mark.parametrize(
    "entry", [{}, {"columns": {"prompt": "instruction", "response": "output"}}]
)
def test_names_of_ours_mean_nothing_where_an_entry_lays_the_rows_out(entry):
    row = {"instruction": "q", "output": "a", "id": "d", "label": "sports", "kto_tag": "perhaps"}
    example = read(row | {"group": ["x"], "weight": "80 kg"}, entry)
    assert (example.group, example.weight, example.is_desirable) == ("g", 1.0, None)


def test_an_entry_may_name_them():
    named = {"prompt": "q", "response": "a", "group": "task", "weight": "share", "kto_tag": "label"}
    row = {"q": "1", "a": "2", "task": "sums", "share": 2, "label": 0}
    example = read(row, {"columns": named})
    assert (example.group, example.weight, example.is_desirable) == ("sums", 2.0, False)
    told = read(row | {"label": "perhaps"}, {"columns": named}).reason
    assert told.startswith("'label' must be true or false (or 1 or 0), this is text ('perhaps').")
    told = read(row | {"share": -1}, {"columns": named}).reason
    assert told.startswith("'share' must be a number above 0. Rename the field")


@pytest.mark.parametrize(("formatting", "weights"), [("openai", [1.0, 0.0]), ("sharegpt", [1, 1])])
def test_turns_have_weights_only_in_openais_words(formatting, weights):
    entry = {"formatting": formatting, "columns": {"messages": "messages"}}
    entry["tags"] = {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                     "assistant_tag": "assistant"}  # fmt: skip
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]
    assert [turn.weight for turn in read({"messages": turns}, entry).messages] == weights


def test_a_list_of_turns_is_what_the_entry_calls_messages():
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    entry = {"formatting": "sharegpt", "columns": {"messages": "talk"}}
    assert read(turns, entry).answer == "a"
    told = read(turns, {"columns": {"prompt": "q", "response": "a"}}).reason
    assert told == "a row must be a JSON object, this is a list."
