"""Layouts found by the fields of a row, and what a wrong row of each is told."""

import json

import pytest

from llama_factory.core.types import TEXT, Example, Message, ToolCall
from llama_factory.data.reading import RawRow, Refused, to_example

USER, BOT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
HUMAN, GPT = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
BETTER, WORSE = {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "w"}
TALK = (Message("user", "q"), Message("assistant", "a"))
TOOLS = [{"name": "f", "parameters": {}}]
CALL = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


def read(row):
    return to_example(RawRow(1, row), group="g", file="f", layout=None)


def good(row):
    example = read(row)
    assert isinstance(example, Example), example
    return example


def told(row):
    refused = read(row)
    assert isinstance(refused, Refused), refused
    return refused.reason


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "output": "a"},
        {"instruction": "q", "output": "a"},
        {"instruction": "", "input": "q", "output": "a"},
        {"instruction": "q", "input": None, "output": "a", "system": None, "history": None},
        {"instruction": "q", "response": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a"},
        {"question": "q", "answer": "a", "source": 3},
        {"query": "q", "response": "a"},
        {"input": "q", "output": "a"},
        {"prompt": [USER], "completion": [BOT]},
        {"messages": [USER, BOT]},
        {"messages": [USER, BOT], "prompt": "q", "prompt_id": "1"},
        {"messages": [{"role": "system", "content": ""}, USER, BOT]},
        {"messages": json.dumps([USER, BOT])},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, BOT]},
        {"conversations": [HUMAN, GPT]},
        {"conversations": [USER, BOT]},
        {"conversation": [USER, BOT]},
        {"messages": [HUMAN, GPT]},
        {"messages": [{"role": "user", "value": "q"}, {"role": "assistant", "value": "a"}]},
        {"messages": [{"from": "human", "content": "q"}, {"from": "gpt", "content": "a"}]},
        {"messages": [{"from": None, **USER}, {"from": None, **BOT}]},
        {"messages": [USER, BOT], "text": "q a"},
        [USER, BOT],
        [HUMAN, GPT],
        {"conversations": [{"from": "user", "value": "q"}, {"from": "assistant", "value": "a"}]},
    ],
)
def test_a_question_and_an_answer_are_found_under_their_usual_names(row):
    assert good(row).messages == TALK


def test_system_and_history_come_before_the_question():
    row = {"instruction": "q", "output": "a", "system": "s", "history": [["1", "2"]]}
    roles = [turn.role for turn in good(row).messages]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    developer = {"role": "developer", "content": "s"}
    assert good({"messages": [developer, USER, BOT]}).messages[0] == Message("system", "s")


@pytest.mark.parametrize("name", ["text", "content"])
def test_plain_text_has_one_turn(name):
    assert good({name: "正文", "url": "x"}).messages == (Message(TEXT, "正文"),)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "chosen": "b", "rejected": "w"},
        {"prompt": "q", "chosen": "b", "rejected": "w"},
        {"question": "q", "chosen": "b", "rejected": "w"},
        {"conversations": [HUMAN], "chosen": {"from": "gpt", "value": "b"},
         "rejected": {"from": "gpt", "value": "w"}},
        {"messages": [USER], "chosen": "b", "rejected": "w"},
        {"messages": [USER], "chosen": [BETTER], "rejected": [WORSE]},
        {"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
        {"prompt": "q", "chosen": [BETTER], "rejected": [WORSE]},
        {"chosen": [USER, BETTER], "rejected": [USER, WORSE]},
        {"prompt": "q", "chosen": [USER, BETTER], "rejected": [USER, WORSE],
         "messages": [USER, BETTER]},
    ],
)  # fmt: skip
def test_pairs_of_answers_are_found(row):
    example = good(row)
    assert example.messages == (Message("user", "q"), Message("assistant", "b"))
    assert example.rejected == Message("assistant", "w")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": [USER], "completion": [BOT], "label": True},
        {"messages": [USER, BOT], "label": True},
        {"conversations": [HUMAN, GPT], "kto_tag": "true"},
        {"instruction": "q", "output": "a", "kto_tag": True},
    ],
)
def test_verdicts_are_found(row):
    example = good(row)
    assert (example.messages, example.is_desirable) == (TALK, True)


def test_a_label_of_an_alpaca_row_is_no_verdict():
    assert good({"instruction": "q", "output": "a", "label": 3}).is_desirable is None


class TestTools:
    def test_tools_and_calls_are_read_in_openais_words(self):
        row = {
            "messages": [
                USER,
                {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
                {"role": "tool", "content": ""},
                {"role": "tool", "content": "2"},
                BOT,
            ],
            "tools": TOOLS,
        }
        example = good(row)
        call = ToolCall("f", '{"x": 1}')
        assert example.messages[1] == Message("assistant", "", tool_calls=(call, call))
        assert json.loads(example.tools) == TOOLS
        assert good(row | {"tools": json.dumps(TOOLS)}).tools == json.dumps(TOOLS)

    @pytest.mark.parametrize("value", [{"name": "f", "arguments": {"x": 1}}, [CALL]])
    @pytest.mark.parametrize("thought", ["", "<think>嗯</think>"])
    def test_and_in_sharegpts(self, value, thought):
        call = {"from": "function_call", "value": thought + json.dumps(value)}
        row = {"conversations": [HUMAN, call, {"from": "observation", "value": "2"}, GPT]}
        called = good(row).messages[1]
        assert called == Message("assistant", thought, tool_calls=(ToolCall("f", '{"x": 1}'),))

    @pytest.mark.parametrize("tools", [None, "", [], "[]"])
    def test_no_tools_are_no_tools(self, tools):
        assert good({"messages": [USER, BOT], "tools": tools}).tools == ""

    @pytest.mark.parametrize("tools", ["f(x)", "{}", {"name": "f"}, ["f"], 3])
    def test_wrong_tools_are_reported(self, tools):
        reason = told({"messages": [USER, BOT], "tools": tools})
        assert reason.startswith("'tools' must be a JSON list of tools, each an object")

    @pytest.mark.parametrize(
        ("call", "reason"),
        [
            ({"function": {"arguments": "{}"}}, "a tool call must have a name, this is"),
            ({"name": "f", "arguments": "x=1"},
             "the arguments of 'f' must be a JSON object, not 'x=1'."),
            ("f", "a tool call must have a name, this is 'f'."),
        ],
    )  # fmt: skip
    def test_wrong_calls_are_reported(self, call, reason):
        turn = {"role": "assistant", "content": None, "tool_calls": [call]}
        assert told({"messages": [USER, turn]}).startswith(f"message 2: {reason}")

    def test_a_call_that_is_no_json_is_reported(self):
        row = {"conversations": [HUMAN, {"from": "function_call", "value": "f(1)"}]}
        reason = "message 2: a function call must be JSON with name and arguments, this is 'f(1)'."
        assert told(row) == reason


class TestWeights:
    def test_turns_may_be_left_untrained(self):
        turns = [
            USER,
            BOT | {"loss": False},
            USER,
            BOT | {"weight": 0.5},
            USER,
            BOT | {"loss": True},
        ]
        assert [turn.weight for turn in good({"messages": turns}).messages] == [1, 0, 1, 0.5, 1, 1]

    @pytest.mark.parametrize(
        ("more", "reason"),
        [
            ({"weight": -1}, "'weight' must be a number of at least 0."),
            ({"weight": "2"}, "'weight' must be a number of at least 0."),
            ({"loss": "no"}, "'loss' must be true or false, this is text."),
        ],
    )
    def test_wrong_ones_are_reported(self, more, reason):
        assert told({"messages": [USER, BOT | more]}) == f"message 2: {reason}"


def test_reasoning_is_a_thought_before_the_answer():
    turn = BOT | {"reasoning_content": "hm"}
    assert good({"messages": [USER, turn]}).answer == "<think>\nhm\n</think>\n\na"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a", "output": " "}, "'output' is empty."),
        ({"instruction": " ", "output": "a"}, "'instruction' is empty."),
        ({"instruction": 3, "output": "b"}, "'instruction' must be text, this is a number."),
        ({"instruction": "a", "output": None}, "'output' has no value (it is null or NaN)."),
        ({"instruction": "a", "output": ["b"]}, "'output' must be text, this is a list."),
        ({"instruction": "a", "output": "b", "history": ["a"]},
         "'history' must be a list of [question, answer] pairs of text; pair 1 is not."),
        ({"instruction": "a", "output": "b", "history": [["a", "b"], ["a", None]]},
         "'history' must be a list of [question, answer] pairs of text; pair 2 is not."),
        ({"instruction": "a", "output": "b", "history": 3},
         "'history' must be a list of [question, answer] pairs of text, this is a number."),
        ({"text": ""}, "'text' is empty."),
        ({"messages": []}, "'messages' must be a list of at least one user and one assistant"),
        ({"messages": None}, "'messages' must be a list of at least one user and one assistant"),
        ({"messages": [None]}, "message 1 must be an object with role and content, this is null."),
        ({"messages": [USER, {"role": "assistant", "content": None}]},
         "message 2: 'content' has no value (it is null or NaN)."),
        ({"messages": [USER, {"role": None, "content": "a"}]},
         "message 2: 'role' must be text, this is null."),
        ({"messages": [USER, {"content": "a"}]},
         "message 2: 'role' is missing; the turn has content."),
        ({"messages": [USER]}, "the last message must be the assistant's answer, it is missing."),
        ({"messages": [{"role": "asistant", "content": "a"}]},
         "message 1: role 'asistant' is unknown. Did you mean 'assistant'?"),
        ({"messages": [BOT]}, "message 1 is from 'assistant' where 'user' must speak."),
        ({"messages": [USER, USER]}, "message 2 is from 'user' where 'assistant' must speak."),
        ({"messages": [USER, BOT, BOT]},
         "message 3 is from 'assistant' where 'user' or 'tool' must speak."),
        ({"messages": [USER, {"role": "system", "content": "s"}]},
         "message 2 is from 'system'; only the first may be."),
        ({"messages": [{"role": "user", "content": ["a"]}]},
         "message 1: 'content' must be text, this is a list."),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
         "message 1: a part of type 'audio' cannot be taught;"),
        ({"messages": [{"role": "user", "content": " "}]}, "message 1: 'content' is empty."),
        ({"conversations": [GPT, HUMAN]}, "message 1 is from 'gpt' where 'human' must speak."),
        ({"conversations": [HUMAN, GPT, GPT]},
         "message 3 is from 'gpt' where 'human' or 'observation' must speak."),
        ({"conversations": [HUMAN, {"from": "observation", "value": "x"}]},
         "message 2 is from 'observation' where 'gpt' must speak."),
        ({"conversations": [{"from": "humman", "value": "x"}]},
         "message 1: role 'humman' is unknown. Did you mean 'human'?"),
        ({"instruction": "q", "chosen": "a", "rejected": "a"},
         "'chosen' and 'rejected' are the same: nothing can be learnt from them."),
        ({"chosen": [USER, BETTER], "rejected": [USER, BETTER]},
         "'chosen' and 'rejected' are the same: nothing can be learnt from them."),
        ({"chosen": [USER, BETTER], "rejected": [{"role": "user", "content": "x"}, WORSE]},
         "'chosen' and 'rejected' must be the same up to the last answer; message 1 differs."),
        ({"chosen": "a", "rejected": "b"},
         "'chosen' must be a list of turns; give the question in 'prompt' where it is text, this"),
        ({"prompt": "q", "chosen": [USER], "rejected": [WORSE]},
         "'chosen': message 2 is from 'user'"),
        ({"messages": [USER, BOT], "chosen": "b", "rejected": "w"},
         "the messages must end with the question that 'chosen' answers."),
        ({"messages": [USER], "chosen": {"role": "user", "content": "b"}, "rejected": "w"},
         "'chosen' must be an answer of the assistant, it is from 'user'."),
        ({"messages": [USER], "chosen": None, "rejected": "w"},
         "'chosen': must be an object with role and content, this is null."),
        ({"prompt": "q", "chosen": "b", "rejected": ""}, "'rejected' is empty."),
        ({"prompt": "q", "completion": "a", "label": 2},
         "'label' must be true or false (or 1 or 0), this is a number (2). Rename the field"),
        ({"prompt": [USER], "completion": "a"},
         "'completion' must be a list of turns, as the question is, this is text."),
    ],
)  # fmt: skip
def test_a_bad_row_names_what_is_wrong(row, reason):
    assert reason in told(row)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking", "thought"])
@pytest.mark.parametrize("turn", [BOT, GPT])
def test_a_thought_goes_by_several_names(name, turn):
    first = USER if turn is BOT else HUMAN
    assert good({"messages": [first, turn | {name: "hm"}]}).answer == "<think>\nhm\n</think>\n\na"
    for nothing in (None, "", float("nan")):
        assert good({"messages": [first | {name: nothing}, turn | {name: nothing}]}).answer == "a"


@pytest.mark.parametrize("kind", ["thinking", "reasoning"])
def test_a_thought_may_be_a_part_of_the_content(kind):
    for part in ({"type": kind, kind: "hm"}, {"type": kind, "text": "hm"}):
        turn = {"role": "assistant", "content": [part, {"type": "text", "text": "a"}]}
        assert good({"messages": [USER, turn]}).answer == "<think>\nhm\n</think>\n\na"


def test_a_thought_that_is_there_twice_is_taught_once():
    twice = BOT | {"reasoning": "hm", "reasoning_content": "hm"}
    assert good({"messages": [USER, twice]}).answer == "<think>\nhm\n</think>\n\na"
    inside = {"role": "assistant", "content": "<think>hm</think>a", "thinking": "hm"}
    assert good({"messages": [USER, inside]}).answer == "<think>hm</think>a"


def test_two_thoughts_are_reported():
    two = BOT | {"reasoning": "hm", "thinking": "oh"}
    reason = "message 2: 'reasoning' and 'thinking' are different thoughts. Keep one."
    assert told({"messages": [USER, two]}) == reason
    inside = {"role": "assistant", "content": "<think>hm</think>a", "thinking": "oh"}
    reason = "message 2: 'thinking' and the content are different thoughts. Keep one."
    assert told({"messages": [USER, inside]}) == reason


def test_a_switch_is_no_thought():
    assert good({"messages": [USER, BOT | {"thinking": True, "reasoning": 3}]}).answer == "a"


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", True, "true", "TRUE", " True "])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "completion": "a", "label": 0},
        {"prompt": [USER], "completion": [BOT], "label": 0},
        {"instruction": "q", "output": "a", "kto_tag": 0},
        {"question": "q", "answer": "a", "is_desirable": 0},
        {"conversations": [HUMAN, GPT], "kto_tag": 0},
    ],
)
def test_verdicts_may_be_numbers(row, value):
    name = list(row)[-1]
    assert good(row | {name: value}).is_desirable is True
    other = str(value).lower().replace("1", "0", 1).replace("true", "false")
    assert good(row | {name: other}).is_desirable is False
    assert good(row | {name: float("nan")}).is_desirable is None


@pytest.mark.parametrize("label", [0, 1, 3, "sports", 0.5, ["a"], {"a": 1}, -1])
@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "answer": "a"},
        {"input": "q", "output": "a"},
        {"messages": [USER, BOT]},
        {"conversations": [HUMAN, GPT]},
    ],
)
def test_a_class_is_no_verdict(row, label):
    assert good(row | {"label": label}).is_desirable is None


@pytest.mark.parametrize(
    "row",
    [
        {"Instruction": "q", "Input": "", "Output": "a"},
        {"Question": "q", "Answer": "a"},
        {"PROMPT": "q", "Completion ": "a"},
        {"Messages": [USER, BOT]},
        {"instruction": "", "Input": "q", "output": "a"},
    ],
)
def test_the_case_of_names_does_not_matter(row):
    assert good(row).messages == TALK


def test_pairs_are_found_in_any_case():
    example = good({"Prompt": "q", "Chosen": "b", "Rejected": "w"})
    assert (example.answer, example.rejected.content) == ("b", "w")
    both = {"Prompt": "q", "Chosen": [BETTER], "Rejected": [WORSE]}
    assert good(both).rejected.content == "w"


def test_names_that_differ_by_case_alone_are_those_in_small_letters_or_none():
    assert good({"question": "q", "Question": "x", "answer": "a"}).messages == TALK
    assert "are no known layout" in told({"Question": "q", "QUESTION": "x", "answer": "a"})


@pytest.mark.parametrize("nothing", [None, "", float("nan"), "nan", "NaN", "NaT", "<NA>", "None"])
def test_a_field_that_may_be_missing_may_hold_nothing(nothing):
    names = (
        "input",
        "system",
        "history",
        "tools",
        "images",
        "videos",
        "kto_tag",
        "weight",
        "group",
    )
    row = {"instruction": "q", "output": "a"} | dict.fromkeys(names, nothing)
    example = good(row)
    assert (example.messages, example.group, example.weight) == (TALK, "g", 1.0)
    turn = BOT | {"weight": float("nan"), "tool_calls": None, "thinking": float("nan")}
    assert good({"messages": [USER, turn], "system": nothing, "tools": nothing}).messages == TALK
    assert good({"messages": [USER, BOT], "images": [nothing]}).images == ()


@pytest.mark.parametrize("name", ["instruction", "output"])
def test_a_field_that_must_be_there_must_hold_something(name):
    reason = told({"instruction": "q", "output": "a", name: float("nan")})
    assert reason in (f"'{name}' has no value (it is null or NaN).", f"'{name}' is empty.")


@pytest.mark.parametrize("text", ["None", "null", "NaN"])
def test_words_for_nothing_stay_inside_texts(text):
    turns = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": text},
        {"role": "assistant", "content": text},
    ]
    said = [turn.content for turn in good({"messages": turns}).messages]
    assert said[2:] == [text, text]
    assert good({"question": "q", "answer": text}).answer == text


def test_a_number_of_a_group_is_its_name():
    for value in (7, 7.0, "7"):
        assert good({"instruction": "q", "output": "a", "group": value}).group == "7"


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "User", "content": "q"}, {"role": "ASSISTANT ", "content": "a"}],
        [{"Role": "user", "Content": "q"}, {"Role": "Assistant", "Content": "a"}],
        [{"From": "Human", "Value": "q"}, {"From": "GPT", "Value": "a"}],
    ],
)
def test_the_case_of_speakers_does_not_matter(turns):
    assert good({"messages": turns}).messages == TALK


def test_arguments_that_another_rows_tool_has_are_none_of_this_ones():
    tools = [{"name": "f", "parameters": {"properties": {"x": {}, "y": {}, "z": None}}}]
    call = {"name": "f", "arguments": {"x": 1, "y": None, "z": None, "other": None}}
    turns = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": ""},
        BOT,
    ]
    example = good({"messages": turns, "tools": tools})
    assert example.messages[1].tool_calls == (ToolCall("f", '{"x": 1, "y": null}'),)
    assert json.loads(example.tools)[0]["parameters"]["properties"] == {"x": {}, "y": {}}
    written = [USER, turns[1] | {"tool_calls": [call | {"arguments": '{"z": null}'}]}, *turns[2:]]
    assert good({"messages": written, "tools": tools}).messages[1].tool_calls[0].arguments == (
        '{"z": null}'
    )
    for row in ({"messages": turns}, {"messages": turns, "tools": [{"name": "g"}]}):
        arguments = json.loads(good(row).messages[1].tool_calls[0].arguments)
        assert arguments == call["arguments"]
