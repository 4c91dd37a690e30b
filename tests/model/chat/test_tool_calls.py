"""Calls are read from answers as chat templates write them, however the text is cut into pieces."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_factory.core.types import Message, ToolCall
from llama_factory.model.chat import templates
from llama_factory.model.chat.prompt_format import PromptFormat
from llama_factory.model.chat.template import Renderer
from llama_factory.model.chat.tool_blocks import (
    MARKS,
    gemma,
    invoked,
    json_lines,
    keyed,
    pythonic,
    tagged,
)
from llama_factory.model.chat.tool_calls import CallReader, Spoken, read_calls
from tests.tiny import make_tokenizer

NAMES = ("add", "get_weather")
ADD = ToolCall("add", '{"a": 2, "b": [1, {"c": "}\\"{"}]}')
WEATHER = ToolCall("get_weather", '{"city": "北京"}')
USER = Message("user", "hello")
FORMS = {
    "tags": '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
    "mistral": '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}, "id": "call00001"}]',
    "mistral without its token": ' [{"name": "add", "arguments": {"a": 1}, "id": "call00001"}]',
    "llama3": '{"name": "add", "parameters": {"a": 1}}',
    "typed": '{"type": "function", "name": "add", "parameters": {"a": 1}}',
    "openai": '{"type": "function", "function": {"name": "add", "arguments": "{\\"a\\": 1}"}}',
    "line": '{"name": "add", "arguments": {"a": 1}}',
    "glm4": 'add\n{"a": 1}',
    "qwen3.5": "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n</function>\n"
    "</tool_call>",
    "glm4.5": "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    "seed": "<seed:tool_call>\n<function=add>\n<parameter=a>1</parameter>\n</function>\n"
    "</seed:tool_call>",
    "minimax m2": '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n'
    "</invoke>\n</minimax:tool_call>",
    "minimax m1": '<tool_calls>\n{"name": "add", "arguments": {"a": 1}}\n</tool_calls>',
    "lfm2": "<|tool_call_start|>[add(a=1)]<|tool_call_end|>",
    "gemma4": "<|tool_call>call:add{a:1}<tool_call|>",
    "harmony": "<|start|>assistant<|channel|>commentary to=functions.add "
    '<|constrain|>json<|message|>{"a": 1}<|call|>',
    "harmony of its template": " to=functions.add<|channel|>commentary json<|message|>"
    '{"a": 1}<|call|>',
    "harmony without its second header": ' to=functions.add{"a": 1}',
    "harmony without its tokens": 'assistantcommentary to=functions.add json{"a": 1}',
    "harmony of its template without its tokens": ' to=functions.addcommentary json{"a": 1}',
    "react": 'Action: add\nAction Input: {"a": 1}',
}


READ = (
    *("chatml", "qwen", "qwen3", "llama3", "mistral", "chatglm3", "glm4", "granite4", "default"),
    *("gpt_oss", "gemma4", "lfm2"),
)
"""Templates of each form of calls."""


def rendered(name: str, answer: Message) -> str:
    """The assistant's turn as a template writes it, without special tokens that are no text."""
    tokenizer = make_tokenizer()
    renderer = Renderer(tokenizer, format=PromptFormat(template=templates.find(name).jinja))
    asked = renderer.text([USER], ask=True)
    text = renderer.text([USER, answer], ask=False).removeprefix(asked)
    own = [token for token in templates.find(name).tokens if token != "eos_token"]
    for token in {*own, str(tokenizer.eos_token)} - MARKS:
        text = text.replace(token, "")
    return text


@pytest.mark.parametrize("content", ["", "Let me look."])
@pytest.mark.parametrize("calls", [(ADD,), (ADD, WEATHER)])
@pytest.mark.parametrize("name", READ)
def test_what_a_template_renders_is_read_again(
    name: str, calls: tuple[ToolCall, ...], content: str
) -> None:
    text = rendered(name, Message("assistant", content, tool_calls=calls))
    spoken, found = read_calls(text, NAMES)
    assert tuple(found) == calls
    if name == "gpt_oss":  # the name of the channel is no special token
        assert spoken.strip() == (content and f"analysis{content}")
    elif name != "qwen3":  # it begins with an empty thought
        assert spoken.strip() == content


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("before", ["", "I will add.\n", "第一。\n\n"])
def test_every_form_is_read_in_pieces_of_any_size(text: str, before: str) -> None:
    whole = before + text
    for size in (1, 2, 3, 7, len(whole)):
        reader = CallReader(NAMES)
        pieces = [
            piece
            for start in range(0, len(whole), size)
            for piece in reader.push(whole[start : start + size])
        ]
        pieces += reader.finish()
        assert [each for each in pieces if isinstance(each, ToolCall)] == [
            ToolCall("add", '{"a": 1}')
        ]
        spoken = "".join(each.text for each in pieces if isinstance(each, Spoken))
        assert spoken == before.rstrip()


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "other", "arguments": {}}',
        '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "add", "arguments": {"a": ',
        "<tool_call> is a tag",
        '{"name": "add", "arguments": [1]}',
        '{"a": 1}',
        '{"na',
        "[TOOL_CALLS]",
        "[1, 2]",
        "add\n",
        'say {"name": "add", "arguments": {}}',
        "Action: add",
        "Action: add\nnothing",
        "the assistant analysis",
        "to=functions.add is how it begins {}",
        'assistantcommentary to=functions.other json{"a": 1}',
        "<|call|>",
        "<|start|>assistant<|channel|>commentary to=functions.add",
        "a < b and </tool_call> \n",
        "  spaces \n\n",
        "{}\n{}\n",
        "",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    for size in (1, 4, 100):
        reader = CallReader(NAMES)
        pieces = []
        for start in range(0, len(text), size):
            pieces += reader.push(text[start : start + size])
        pieces += reader.finish()
        assert all(isinstance(each, Spoken) for each in pieces)
        assert "".join(each.text for each in pieces) == text


def test_plain_text_is_not_held_back() -> None:
    reader = CallReader(NAMES)
    assert reader.push("Hello, wor") == [Spoken("Hello, wor")]
    assert reader.push("ld.") == [Spoken("ld.")]


def test_a_call_comes_as_soon_as_it_is_whole() -> None:
    reader = CallReader(NAMES)
    assert reader.push('ok <tool_call>\n{"name": "add", "arguments": {}') == [Spoken("ok")]
    assert reader.push("}") == [ToolCall("add", "{}")]
    assert reader.push("\n</tool_call>") == []
    assert reader.finish() == []


@given(st.text(alphabet='ad{}[]"\\:,\n <tool_call>/', max_size=60), st.integers(1, 9))
def test_no_text_is_lost_and_its_pieces_do_not_matter(text: str, size: int) -> None:
    whole = read_calls(text, NAMES)
    reader, pieces = CallReader(NAMES), []
    for start in range(0, len(text), size):
        pieces += reader.push(text[start : start + size])
    pieces += reader.finish()
    spoken = "".join(each.text for each in pieces if isinstance(each, Spoken))
    assert (spoken, [each for each in pieces if isinstance(each, ToolCall)]) == whole
    if not whole[1]:
        assert spoken == text


def test_a_long_argument_is_read_in_time_that_grows_with_its_length() -> None:
    call = ToolCall("add", json.dumps({"a": "x" * 200_000}))
    text = f'<tool_call>{{"name": "add", "arguments": {call.arguments}}}</tool_call>'
    reader, found = CallReader(NAMES), []
    for start in range(0, len(text), 100):
        found += reader.push(text[start : start + 100])
    assert [*found, *reader.finish()] == [call]


@pytest.mark.parametrize(
    ("read", "text", "calls"),
    [
        (tagged, "<function=f>\n<parameter=a>\nb\nc\n</parameter>\n</function>", {"a": "b\nc"}),
        (tagged, "<function=f>\n</function>", {}),
        (
            invoked,
            '<invoke name="f"><parameter name="a">[1, 2]</parameter></invoke>',
            {"a": [1, 2]},
        ),
        (keyed, "f\n<arg_key>a</arg_key>\n<arg_value>北京</arg_value>\n", {"a": "北京"}),
        (keyed, "f", {}),
        (pythonic, "[f(a='x', b=[1, None])]", {"a": "x", "b": [1, None]}),
        (gemma, "call:f{a:None,b:[1,None]}", {"a": None, "b": [1, None]}),
        (gemma, 'call:f{a:<|"|>x, {y: 1}<|"|>,b:{c:true}}', {"a": "x, {y: 1}", "b": {"c": True}}),
        (json_lines, '{"name": "f", "arguments": {"a": 1}}\nnonsense', {"a": 1}),
    ],
)
def test_arguments_that_are_no_json(read, text, calls):
    assert read(text) == [("f", calls)]


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (keyed, "three words here"),
        (pythonic, "[f(1)]"),
        (pythonic, "[f(a=g())]"),
        (pythonic, "not python ("),
        (gemma, "call:f{a:}"),
        (gemma, "f{a:1}"),
        (json_lines, "[]"),
        (tagged, "<function=f>"),
    ],
)
def test_what_is_no_call_is_none(read, text):
    assert read(text) == []


def test_a_block_that_calls_no_known_tool_stays_text():
    text = "<tool_call>\n<function=rm>\n<parameter=a>1</parameter>\n</function>\n</tool_call> so"
    assert read_calls(text, NAMES) == (text, [])
    begun = "<seed:tool_call> is how Seed begins"
    assert read_calls(begun, NAMES) == (begun, [])


def test_two_calls_in_a_block_and_an_answer_that_ends_within_one():
    two = "<|tool_call_start|>[add(a=1), get_weather(city='x')]<|tool_call_end|>"
    assert [call.name for call in read_calls(two, NAMES)[1]] == ["add", "get_weather"]
    cut = "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>"
    assert read_calls(cut, NAMES)[1] == [ToolCall("add", '{"a": 1}')]
