"""OpenAI's client and vLLM's calls, against an engine whose answers are known."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pydantic
import pytest
from openai import OpenAI

from llama_factory.inference.question import Options, Question, TextPrompt
from llama_factory.inference.request import Constraint
from llama_factory.versions.workspace import Workspace
from tests.serving.running import ask, serving, stream, text_of
from tests.serving.scripted_answers import ScriptedEngine

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
SUB = {"type": "function", "function": {"name": "sub"}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
TWO_CALLS = f"I add.\n{CALL}\n{CALL.replace('2', '3')}"


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def server(workspace: Workspace, engine: ScriptedEngine) -> Iterator[OpenAI]:
    with serving(workspace, engine) as client:
        yield client


@pytest.fixture
def scripted(engine: ScriptedEngine) -> Iterator[ScriptedEngine]:
    """The engine with what it was asked forgotten, and its usual text put back."""
    engine.asked.clear()
    usual = engine.script
    yield engine
    engine.script = usual


def post(client: OpenAI, path: str, body: Any) -> httpx.Response:
    return httpx.post(str(client.base_url.join(path)), json=body)


def options_of(engine: ScriptedEngine) -> Options:
    return engine.asked[-1][2]


def test_every_option_reaches_the_engine(server: OpenAI, scripted: ScriptedEngine) -> None:
    ask(
        server,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.75,
        stop=["x", "y"],
        seed=3,
        presence_penalty=1.5,
        frequency_penalty=-1.5,
        logit_bias={"5": -100, "17": 2.5},
        extra_body={
            "top_k": 40,
            "min_p": 0.125,
            "repetition_penalty": 1.25,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [1, 2],
        },
    )
    assert options_of(scripted) == Options(
        max_tokens=9,
        temperature=0.5,
        top_p=0.75,
        stop=("x", "y"),
        seed=3,
        presence_penalty=1.5,
        frequency_penalty=-1.5,
        logit_bias={5: -100.0, 17: 2.5},
        top_k=40,
        min_p=0.125,
        repetition_penalty=1.25,
        min_tokens=2,
        ignore_eos=True,
        stop_token_ids=(1, 2),
    )


@pytest.mark.parametrize("is_stream", [False, True])
def test_n_answers_draw_from_seeds_of_their_own(
    server: OpenAI, scripted: ScriptedEngine, is_stream: bool
) -> None:
    scripted.script = "seed {seed}"
    if is_stream:
        chunks = stream(server, n=3, seed=5, stream_options={"include_usage": True})
        texts, usage = ["", "", ""], chunks[-1].usage
        for chunk in chunks[:-1]:
            texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    else:
        answer = ask(server, n=3, seed=5)
        texts, usage = [each.message.content for each in answer.choices], answer.usage
    assert texts == ["seed 5", "seed 6", "seed 7"]
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 6)
    assert usage.prompt_tokens_details.cached_tokens == 5


def test_logprobs_are_in_the_chats_shape(server: OpenAI, scripted: ScriptedEngine) -> None:
    scripted.script = "abcdef"
    whole = ask(server, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [each.token for each in whole] == ["abc", "def"]
    assert (whole[0].logprob, whole[0].bytes) == (-0.5, [97, 98, 99])
    assert [each.token for each in whole[0].top_logprobs] == ["abc0", "abc1"]
    chunks = stream(server, logprobs=True, top_logprobs=2)
    streamed = [
        each
        for chunk in chunks
        if chunk.choices[0].logprobs
        for each in chunk.choices[0].logprobs.content
    ]
    assert [each.model_dump() for each in streamed] == [each.model_dump() for each in whole]
    assert ask(server).choices[0].logprobs is None


def test_calls_are_parsed(server: OpenAI, scripted: ScriptedEngine) -> None:
    scripted.script = TWO_CALLS
    choice = ask(server, tools=[ADD, SUB]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I add."
    calls = choice.message.tool_calls
    assert [(each.function.name, each.function.arguments) for each in calls] == [
        ("add", '{"a": 2}'),
        ("add", '{"a": 3}'),
    ]
    assert len({each.id for each in calls}) == 2
    one = ask(server, tools=[ADD], parallel_tool_calls=False).choices[0].message
    assert len(one.tool_calls) == 1
    plain = ask(server, tools=[ADD], tool_choice="none").choices[0]
    assert (plain.finish_reason, plain.message.content) == ("stop", TWO_CALLS)
    question = scripted.asked[-1][1]
    assert isinstance(question, Question)
    assert question.tools == ""


def test_streamed_calls_add_up_as_openais_client_adds_them(
    server: OpenAI, scripted: ScriptedEngine
) -> None:
    scripted.script = TWO_CALLS
    asked = [{"role": "user", "content": "hello"}]
    with server.chat.completions.stream(model="production", messages=asked, tools=[ADD]) as events:
        for _ in events:
            pass
        choice = events.get_final_completion().choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I add."
    calls = choice.message.tool_calls
    assert [each.function.arguments for each in calls] == ['{"a": 2}', '{"a": 3}']
    assert {each.function.name for each in calls} == {"add"}


@pytest.mark.parametrize(
    ("choice", "names"),
    [("required", ["add", "sub"]), ({"type": "function", "function": {"name": "sub"}}, ["sub"])],
)
def test_a_demanded_call_is_a_constraint(
    server: OpenAI, scripted: ScriptedEngine, choice: Any, names: list[str]
) -> None:
    scripted.script = '{"name": "sub", "arguments": {}}'
    answer = ask(server, tools=[ADD, SUB], tool_choice=choice).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    assert answer.message.tool_calls[0].function.name == "sub"
    constraint = options_of(scripted).constraint
    assert constraint is not None
    assert constraint.kind == "json_schema"
    schema = json.loads(constraint.text)
    calls = schema.get("anyOf", [schema])
    assert [each["properties"]["name"]["const"] for each in calls] == names


def test_a_pydantic_class_is_a_constraint(server: OpenAI, scripted: ScriptedEngine) -> None:
    class Sum(pydantic.BaseModel):
        total: int

    scripted.script = '{"total": 5}'
    asked = [{"role": "user", "content": "hello"}]
    answer = server.chat.completions.parse(model="production", messages=asked, response_format=Sum)
    assert answer.choices[0].message.parsed == Sum(total=5)
    constraint = options_of(scripted).constraint
    assert constraint is not None
    assert json.loads(constraint.text)["properties"]["total"]["type"] == "integer"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json")),
        ({"structured_outputs": {"json_object": True}}, Constraint("json")),
        ({"structured_outputs": {"regex": "a+"}}, Constraint("regex", "a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Constraint("choice", '["a", "b"]')),
        ({"structured_outputs": {"grammar": "g"}}, Constraint("grammar", "g")),
        ({"structured_outputs": {"json": '{"a": 1}'}}, Constraint("json_schema", '{"a": 1}')),
        ({"guided_json": {"type": "object"}}, Constraint("json_schema", '{"type": "object"}')),
        ({"guided_regex": "a"}, Constraint("regex", "a")),
        ({"guided_choice": ["yes"]}, Constraint("choice", '["yes"]')),
        ({"guided_grammar": "g"}, Constraint("grammar", "g")),
    ],
)
def test_formats_and_vllms_names_are_constraints(
    server: OpenAI, scripted: ScriptedEngine, fields: Any, expected: Constraint | None
) -> None:
    ask(server, extra_body=fields)
    assert options_of(scripted).constraint == expected
    server.completions.create(model="production", prompt="x", extra_body=fields)
    assert options_of(scripted).constraint == expected


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": "json_object"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": "a", "mood": 1}}, "structured_outputs.mood"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_regex": "a", "guided_choice": ["b"]}, "guided_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [ADD], "tool_choice": {"type": "function", "function": {}}}, "tool_choice"),
        (
            {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice",
        ),
        ({"tools": [ADD], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"n": 129}, "n"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    server: OpenAI, scripted: ScriptedEngine, fields: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=param) as refusal:
        ask(server, extra_body=fields)
    assert refusal.value.param == param
    assert scripted.asked == []


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("abc", ["abc"]),
        (["abc", "def"], ["abc", "def"]),
        ([1, 2], [(1, 2)]),
        ([[1], [2, 3]], [(1,), (2, 3)]),
    ],
)
def test_texts_and_tokens_are_continued(
    server: OpenAI, scripted: ScriptedEngine, prompt: Any, expected: list[Any]
) -> None:
    answer = server.completions.create(model="production", prompt=prompt, n=2)
    assert [each.index for each in answer.choices] == list(range(2 * len(expected)))
    assert {each.text for each in answer.choices} == {"Hello from v0001."}
    asked = [asked for _, asked, _ in scripted.asked]
    assert asked == [TextPrompt(each) for each in expected for _ in range(2)]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 7 * len(expected)
    assert options_of(scripted).max_tokens == 16


def test_a_streamed_completion_adds_up(server: OpenAI, scripted: ScriptedEngine) -> None:
    chunks = list(
        server.completions.create(
            model="production",
            prompt="x",
            stream=True,
            logprobs=1,
            stream_options={"include_usage": True},
        )
    )
    assert "".join(each.choices[0].text for each in chunks[:-1]) == "Hello from v0001."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    logprobs = chunks[1].choices[0].logprobs
    assert logprobs is not None
    assert (logprobs.tokens, logprobs.text_offset) == (["lo "], [3])
    assert logprobs.top_logprobs == [{"lo 0": -1.0}]


@pytest.mark.variants
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"echo": True}, "echo"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt.0"),
        ({"prompt": [1, "a"]}, "prompt.0"),
        ({"prompt": [-1]}, "prompt.0"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"prompt": ["x"] * 100, "n": 2}, "n"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_completions_cannot_do_is_refused_by_name(
    server: OpenAI, fields: dict[str, Any], param: str
) -> None:
    answer = post(server, "/v1/completions", {"model": "production", "prompt": "x"} | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_embeddings_come_as_numbers_and_as_bytes(server: OpenAI) -> None:
    packed = server.embeddings.create(model="production", input=["ab", "c"])
    plain = server.embeddings.create(model="production", input=["ab", "c"], encoding_format="float")
    assert [each.embedding for each in packed.data] == [each.embedding for each in plain.data]
    assert plain.data[0].embedding == [0.5, -0.25, 2.0]
    assert (plain.model, plain.usage.prompt_tokens) == ("v0001", 3)
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        server.embeddings.create(model="production", input="a", dimensions=8)


def test_texts_become_tokens_and_back(server: OpenAI) -> None:
    told = post(server, "/tokenize", {"prompt": "ab", "return_token_strs": True}).json()
    assert told == {"count": 2, "tokens": [97, 98], "token_strs": ["a", "b"]}
    assert post(server, "/detokenize", {"tokens": [97, 98]}).json() == {"prompt": "ab"}
    for path, body in (("/tokenize", {}), ("/detokenize", {"tokens": "ab"})):
        assert post(server, path, body).status_code == 400


def test_versions_are_loaded_by_vllms_call_and_no_path_is_opened(
    server: OpenAI, scripted: ScriptedEngine, workspace: Workspace, tmp_path: Path
) -> None:
    def call(verb: str, **body: Any) -> httpx.Response:
        return post(server, f"/v1/{verb}_lora_adapter", body)

    own = workspace.versions / "v0002" / "adapter"
    assert call("load", lora_name="v0002", lora_path=str(own)).status_code == 200
    assert "v0002" in scripted.loaded
    assert call("unload", lora_name="v0002").status_code == 200
    assert "v0002" not in scripted.loaded
    assert call("unload", lora_name="v0001").status_code == 400  # it is released
    for path in (str(tmp_path), "/etc/passwd", f"{own}/../adapter", ""):
        answer = call("load", lora_name="v0002", lora_path=path)
        assert answer.json()["error"]["param"] == "lora_path"
    for name in ("production", "../v0002", "v9999", "/etc"):
        assert call("load", lora_name=name).status_code == 404
    assert "v0002" not in scripted.loaded


def test_a_refusal_part_of_a_turn_is_read(server: OpenAI, scripted: ScriptedEngine) -> None:
    turns = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "why"},
    ]
    server.chat.completions.create(model="production", messages=turns)  # type: ignore[arg-type]
    question = scripted.asked[-1][1]
    assert isinstance(question, Question)
    assert [(each.role, each.content) for each in question.messages][1:3] == [
        ("assistant", "No."),
        ("system", "be brief"),
    ]


def test_text_of_a_stream_without_tools_is_sent_at_once(
    server: OpenAI, scripted: ScriptedEngine
) -> None:
    scripted.script = TWO_CALLS
    assert text_of(stream(server)) == TWO_CALLS
