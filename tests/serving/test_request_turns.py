"""The turns and tools of a request become what training makes of the same row."""

import json
from pathlib import Path
from typing import Any

import pytest

from llama_factory.core.types import Message, ToolCall
from llama_factory.data.formats.layout import OPENAI
from llama_factory.data.formats.turn_parsing import parse_turns
from llama_factory.inference.question import RequestError
from llama_factory.model.chat.template import Renderer, prompt_tokens
from llama_factory.serving import request_turns
from llama_factory.serving.protocol import fields
from llama_factory.serving.protocol.chat import ChatRequest
from tests.tiny import make_tokenizer

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
ASK = {"role": "user", "content": "What is 2+2?"}


def call(name: str = "add", arguments: Any = '{"a": 2}', **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


def calling(*calls: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def result(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "content": content, **more}


def request(*turns: Any, **more: Any) -> ChatRequest:
    body = {"model": "production", "messages": list(turns), **more}
    return ChatRequest.model_validate_json(json.dumps(body))


CONVERSATIONS = [
    [ASK, calling(call()), result("4")],
    [ASK, calling(call(arguments={"a": 2})), result("4"), ASK],
    [ASK, calling(call("one"), call("two", "")), result("1"), result("2")],
    [ASK, calling(call(), content="Let me see."), result("4"), ASK],
    [ASK, calling({"name": "add", "arguments": {}}), result("")],
    [ASK, {"role": "assistant", "content": "", "function_call": {"name": "add"}}, result("4")],
    [ASK, {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}, ASK],
    [ASK, {"role": "assistant", "content": "4", "reasoning": "2 and 2"}, ASK],
    [{"role": "developer", "content": "Be short."}, ASK],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
]


@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_a_history_is_read_as_training_reads_it(turns: list[dict[str, Any]]) -> None:
    taught = tuple(spoken.message for spoken in parse_turns(turns, OPENAI))
    assert request(*turns).question().messages == taught


def test_the_calls_of_a_history_reach_the_prompt() -> None:
    messages = request(*CONVERSATIONS[0]).question().messages
    assert messages[1] == Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 2}'),))
    assert messages[2] == Message("tool", "4")


def test_results_are_put_in_the_order_of_the_calls_that_they_answer() -> None:
    calls = calling(call("one", id="c1"), call("two", id="c2"), call("three", id="c3"))
    turns = [ASK, calls, result("2", tool_call_id="c2"), result("1", tool_call_id="c1")]
    contents = [message.content for message in request(*turns, ASK).question().messages]
    assert contents == ["What is 2+2?", "", "1", "2", "What is 2+2?"]


def test_fields_of_other_programs_turns_do_no_harm() -> None:
    turn = {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "audio": None,
        "annotations": [],
        "tool_calls": None,
        "function_call": None,
        "name": "bot",
    }
    assert request(ASK, turn, ASK).question().messages[1] == Message("assistant", "4")


ONE, TWO = call("one", id="c1"), call("two", id="c2")


@pytest.mark.parametrize(
    ("turns", "param", "text"),
    [
        ([calling(5)], "messages.1", "must have a name"),
        ([calling(call(name=""))], "messages.1", "must have a name"),
        ([calling(call(arguments="{half"))], "messages.1", "arguments of 'add' must be a JSON"),
        ([calling(call(arguments=[1]))], "messages.1", "arguments of 'add' must be a JSON"),
        ([calling() | {"tool_calls": "add"}], "messages.1", "must be a list"),
        ([ASK | {"tool_calls": [ONE]}], "messages.1.tool_calls", "belong in a turn of the assist"),
        ([{"role": "user", "content": None}], "messages.1.content", "must be text"),
        ([{"role": "tool", "tool_call_id": "c1"}], "messages.1.content", "must be text"),
        (
            [calling(ONE), result("", tool_call_id="c9")],
            "messages.2.tool_call_id",
            r"'c9' is no call that waits for a result; there are \['c1'\]",
        ),
        (
            [calling(ONE), result("", tool_call_id="c1"), result("", tool_call_id="c1")],
            "messages.3.tool_call_id",
            "'c1' is no call that waits",
        ),
        (
            [calling(ONE, TWO), result("", tool_call_id="c1"), result("")],
            "messages.3.tool_call_id",
            "None is no call that waits",
        ),
        (
            [calling(ONE, TWO), result("", tool_call_id="c2")],
            "messages.2",
            "the call 'c1' has no result",
        ),
        ([result("", tool_call_id="c1")], "messages.1.tool_call_id", "'c1' is no call"),
        ([calling(ONE), result("", name="two")], "messages.2.name", "'two' is not the function"),
        ([ASK | {"audio": {"id": "a"}}], "messages.1.audio", "does not read an object"),
    ],
)
def test_a_turn_that_cannot_be_read_is_named(turns: list[Any], param: str, text: str) -> None:
    with pytest.raises(RequestError, match=text) as told:
        request(ASK, *turns).question()
    assert told.value.place == param


def test_tools_are_those_of_a_row() -> None:
    asked = request(ASK, tools=TOOLS).question()
    assert asked.tools == json.dumps(TOOLS, ensure_ascii=False)
    assert request(ASK, tools=TOOLS, tool_choice="auto").question().tools == asked.tools
    assert request(ASK, tools=TOOLS, tool_choice="none").question().tools == ""
    assert request(ASK, tools=[]).question().tools == ""
    assert request(ASK, tools=None, tool_choice="none").question().tools == ""


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0"),
        ({"tools": [*TOOLS, 5]}, "tools.1"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools.0"),
        ({"tools": [{"type": "function", "function": {"name": "x" * 129}}]}, "tools.0"),
    ],
)
def test_tools_that_cannot_be_offered_are_named(more: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as told:
        request(ASK, **more).question()
    assert told.value.place == param


@pytest.mark.parametrize("value", [True, False, None])
def test_thinking_is_switched_in_either_place(value: bool | None) -> None:
    for more in (
        {"enable_thinking": value},
        {"chat_template_kwargs": {"enable_thinking": value}},
        {"enable_thinking": value, "chat_template_kwargs": {"enable_thinking": value}},
    ):
        assert request(ASK, **more).question().enable_thinking is value
    assert request(ASK, chat_template_kwargs={}).question().enable_thinking is None


def test_a_tokenizer_writes_tools_and_calls_of_a_request() -> None:
    """The tiny template shows neither, so that both are written as text, as training does."""
    asked = request(*CONVERSATIONS[0], tools=TOOLS).question()
    tokenizer = make_tokenizer()
    text = tokenizer.decode(prompt_tokens(asked.messages, Renderer(tokenizer, asked.tools)).ids)
    assert '"name": "add"' in text.split("What is")[0]
    assert '{"name": "add", "arguments": {"a": 2}}' in text


def test_the_guide_lists_every_field_that_is_ignored() -> None:
    guide = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in guide for name in fields.IGNORED | request_turns.IGNORED_IN_TURNS)
