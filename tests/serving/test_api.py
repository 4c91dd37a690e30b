"""The API as OpenAI's own client sees it, on a real server with a tiny model."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from llama_factory.core.types import Message
from llama_factory.data.formats.layout import OPENAI
from llama_factory.data.formats.turn_parsing import parse_turns
from llama_factory.model.chat.template import Renderer, prompt_tokens
from llama_factory.serving.protocol import fields
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.serving.running import (
    MAX_TOKENS,
    QUESTION,
    answer_alone,
    ask,
    client_of,
    health,
    make_engine,
    serving,
    stream,
    text_of,
    wait_until,
)
from tests.tiny import (
    CHAT_TEMPLATE,
    make_tiny_model,
    make_tokenizer,
    make_workspace,
    publish_adapter,
    taught_adapter,
)


def post(client: OpenAI, content: str | bytes) -> httpx.Response:
    url = f"{client.base_url}chat/completions"
    return httpx.post(url, content=content, headers={"Content-Type": "application/json"})


def test_models_are_the_aliases_and_the_versions(client: OpenAI) -> None:
    listed = {model.id: model.model_dump() for model in client.models.list()}
    assert set(listed) == {"production", "previous", "v0000", "v0001", "v0002"}
    assert listed["production"]["root"] == "v0001"
    assert listed["production"]["created"] == listed["v0001"]["created"] > 0
    assert client.models.retrieve("previous").model_dump()["root"] == "v0000"


def test_health_names_the_released_version(client: OpenAI) -> None:
    told = {"status": "ok", "version": "v0001", "released": "v0001", "refused": []}
    assert health(client) == told | {"running": 0, "queue": 0}


def test_an_answer_is_the_released_versions_own(
    client: OpenAI, workspace: Workspace, tiny_model: Path
) -> None:
    answer = ask(client)
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert answer.model == "v0001"
    assert answer.choices[0].message.role == "assistant"
    expected = answer_alone(tiny_model, workspace, "v0001", QUESTION)
    assert answer.choices[0].message.content == expected


def test_usage_counts_the_rendered_prompt(client: OpenAI) -> None:
    turns = [{"role": "user", "content": QUESTION}]
    prompt = make_tokenizer().apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
    usage = ask(client, max_tokens=5).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), 5)
    assert usage.total_tokens == len(prompt) + 5


def test_a_stream_adds_up_to_the_whole_answer(client: OpenAI) -> None:
    whole = ask(client)
    chunks = stream(client, stream_options={"include_usage": True})
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {(chunk.object, chunk.model) for chunk in chunks} == {("chat.completion.chunk", "v0001")}
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_carries_no_usage_unless_asked(client: OpenAI) -> None:
    assert all(chunk.choices and chunk.usage is None for chunk in stream(client))


def test_a_stream_ends_with_done(client: OpenAI) -> None:
    body = '{"model": "production", "stream": true, "messages": [{"role": "user", "content": "a"}]}'
    answer = post(client, body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_tokens_run_out(client: OpenAI, name: str) -> None:
    answer = ask(client, **{name: 3})
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3


def test_without_max_tokens_the_setting_counts(client: OpenAI) -> None:
    assert ask(client).usage.completion_tokens == MAX_TOKENS


def test_an_answer_ends_before_a_stop_string(client: OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    stop = whole[4:6]
    answer = ask(client, stop=[stop, "never"])
    assert answer.choices[0].message.content == whole.split(stop)[0]
    assert answer.choices[0].finish_reason == "stop"
    assert text_of(stream(client, stop=stop)) == whole.split(stop)[0]


def test_a_seed_repeats_the_draw(client: OpenAI) -> None:
    drawn = [ask(client, temperature=1.5, seed=seed) for seed in (3, 3, 4)]
    first, again, other = (answer.choices[0].message.content for answer in drawn)
    assert first == again != other


def test_versions_answer_by_alias_id_and_workspace_name(client: OpenAI) -> None:
    named = {
        name: ask(client, model=name)
        for name in ("production", "my-bot", "v0001", "previous", "v0000", "v0002")
    }
    answered = {name: answer.model for name, answer in named.items()}
    assert answered.pop("production") == answered.pop("my-bot") == answered.pop("v0001") == "v0001"
    assert answered == {"previous": "v0000", "v0000": "v0000", "v0002": "v0002"}
    texts = {answer.model: answer.choices[0].message.content for answer in named.values()}
    assert len(set(texts.values())) == 3


def test_content_may_be_a_list_of_texts(client: OpenAI) -> None:
    parts = [{"type": "text", "text": QUESTION}]
    assert ask(client, parts).choices == ask(client).choices


def test_fields_that_change_nothing_are_ignored(client: OpenAI) -> None:
    neutral = {name: values[0] for name, values in fields.NEUTRAL.items() if values}
    extra = {
        **dict.fromkeys(fields.NEUTRAL),
        **neutral,
        **dict.fromkeys(fields.IGNORED, "anything"),
        "made_up": None,
        "tool_choice": "none",
    }
    assert ask(client, extra_body=extra).choices == ask(client).choices


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, {"any": 7}) for name in fields.NEUTRAL),
        ("n", True),
        ("logprobs", 0),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "add"}}),
        ("made_up", [1]),
        ("made_up", False),
        ("temprature", 0),
    ],
)
def test_fields_that_would_change_the_answer_are_refused(
    client: OpenAI, name: str, value: Any, is_stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{name}: ") as told:
        ask(client, stream=is_stream, extra_body={name: value})
    assert told.value.param == name


def test_a_misspelt_field_is_told_the_nearest_name(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Did you mean 'temperature'"):
        ask(client, extra_body={"temprature": 0})


@pytest.mark.slow
def test_a_chinese_answer_has_no_broken_characters(
    own_workspace: Workspace, tiny_model: Path
) -> None:
    taught = "三十天内可以退货。😀"
    publish_adapter(own_workspace, tiny_model, taught_adapter(tiny_model, QUESTION, taught))
    with serving(own_workspace, make_engine(tiny_model)) as client:
        chunks = stream(client, model="v0003", max_tokens=100)
        assert text_of(chunks) == taught
        assert ask(client, model="v0003", max_tokens=100).choices[0].message.content == taught
        assert not any("\ufffd" in text_of([chunk]) for chunk in chunks)


def test_an_unknown_model_is_told_the_nearest_name(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean 'production'") as told:
        ask(client, model="prodction")
    assert told.value.code == "model_not_found"
    assert told.value.param == "model"


def test_an_unknown_route_is_told_in_openais_shape(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"POST /v1/audio/speech.*There are GET") as told:
        client.audio.speech.create(model="production", input="x", voice="alloy")
    assert told.value.type == "invalid_request_error"


def test_embeddings_have_length_one(client: OpenAI) -> None:
    made = client.embeddings.create(model="production", input=["hello", "你好"])
    for each in made.data:
        assert sum(value * value for value in each.embedding) == pytest.approx(1, abs=1e-4)
    assert made.data[0].embedding != made.data[1].embedding


@pytest.mark.parametrize(
    ("options", "param", "text"),
    [
        ({"temperature": "hot"}, "temperature", "valid number .*'hot'"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"stop": [1]}, "stop.0", "valid string"),
        ({"stop": ""}, "stop.0", "at least 1 character"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": "hello"}, "messages", "valid list"),
        ({"messages": [{"role": "boss", "content": ""}]}, "messages.0.role", "'boss'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
            "part of type 'image_url' cannot be read",
        ),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4 items"),
        ({"stop": "x" * 1001}, "stop.0", "at most 1000 characters"),
        ({"chat_template_kwargs": {"mood": 1}}, "chat_template_kwargs.mood", "not permitted"),
        ({"enable_thinking": "no"}, "enable_thinking", "valid boolean"),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
            "enable_thinking",
            "says the opposite",
        ),
    ],
)
def test_wrong_values_are_told_in_openais_shape(
    client: OpenAI, options: dict[str, Any], param: str | None, text: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=text) as told:
        ask(client, extra_body=options)
    assert told.value.type == "invalid_request_error"
    assert told.value.param == param


def test_a_missing_field_is_named(client: OpenAI) -> None:
    error = post(client, '{"model": "production"}').json()["error"]
    assert error["param"] == "messages"


@pytest.mark.parametrize("body", ["{nonsense", "[]", ""])
def test_a_body_that_is_no_request_is_told_so(client: OpenAI, body: str) -> None:
    answer = post(client, body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


HALF = "cut emoji \ud83d"
ASKED = {"role": "user", "content": "hello"}


@pytest.mark.variants
@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"model": HALF}, "model"),
        ({"messages": [{"role": "user", "content": HALF}]}, "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]},
            "messages.0.content.0.text",
        ),
        ({"messages": [{"role": HALF, "content": ""}]}, "messages.0.role"),
        ({"stop": ["a", HALF]}, "stop.1"),
        ({"user": HALF}, "user"),
        ({"metadata": {HALF: 1}}, "a name in metadata"),
        ({HALF: 1}, "a name in the body"),
        ({"tools": [{"function": {"name": HALF}}]}, "tools.0.function.name"),
        ({"made_up": [[[{"deep": "\udc00"}]]]}, "made_up.0.0.0.deep"),
    ],
)
def test_half_a_character_is_refused_wherever_it_stands(
    client: OpenAI, body: dict[str, Any], place: str, is_stream: bool
) -> None:
    whole = {"model": "production", "messages": [ASKED], "stream": is_stream} | body
    answer = post(client, json.dumps(whole))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == place
    assert "half of a character" in answer.json()["error"]["message"]


def test_text_of_all_planes_is_no_half_character(client: OpenAI) -> None:
    whole = {"model": "production", "max_tokens": 1, "messages": [{**ASKED, "content": "😀\ufffd"}]}
    assert post(client, json.dumps(whole)).status_code == 200


def test_a_body_nested_deeply_is_refused(client: OpenAI) -> None:
    for deep in ("[" * 100_000, '{"a":' * 100_000, '{"tools": ' + "[" * 900 + "]" * 900 + "}"):
        assert post(client, deep).status_code == 400


def test_a_history_with_tool_calls_costs_the_tokens_that_training_writes(client: OpenAI) -> None:
    called = {"name": "add", "arguments": '{"a": 2, "b": 2}'}
    turns = [
        {"role": "user", "content": "What is 2+2?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": called}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "4"},
    ]
    taught = [spoken.message for spoken in parse_turns(turns, OPENAI)]
    answer = client.chat.completions.create(model="production", messages=turns, max_tokens=1)
    assert answer.usage.prompt_tokens == len(prompt_tokens(taught, Renderer(make_tokenizer())).ids)


def test_tools_of_a_request_are_in_its_prompt(client: OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    turn = Message("user", QUESTION)
    written = prompt_tokens([turn], Renderer(make_tokenizer(), json.dumps([tool]))).ids
    assert ask(client, tools=[tool]).usage.prompt_tokens == len(written)


@pytest.mark.parametrize("value", [True, False])
def test_a_request_switches_thinking(tmp_path: Path, value: bool) -> None:
    model = make_tiny_model(tmp_path / "thinking")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE + (
        "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
        "<think>\n\n</think>\n\n{% endif %}"
    )
    tokenizer.save_pretrained(model)
    workspace = make_workspace(tmp_path / "bot", model)
    turns = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, enable_thinking=value
    )["input_ids"]
    with serving(workspace, make_engine(model)) as client:
        for extra in (
            {"enable_thinking": value},
            {"chat_template_kwargs": {"enable_thinking": value}},
        ):
            answer = ask(client, max_tokens=1, extra_body=extra)
            assert answer.usage.prompt_tokens == len(prompt)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_prompt_beyond_the_context_is_refused(client: OpenAI, is_stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="Shorten them") as told:
        ask(client, "hello " * 600, stream=is_stream)
    assert told.value.code == "context_length_exceeded"


def test_only_the_key_opens_the_api(workspace: Workspace, tiny_model: Path) -> None:
    with serving(workspace, make_engine(tiny_model), api_key="schlüssel") as stranger:
        url = str(stranger.base_url)
        for call in (stranger.models.list, lambda: ask(stranger)):
            with pytest.raises(openai.AuthenticationError, match="Authorization: Bearer") as told:
                call()
            assert told.value.code == "invalid_api_key"
        assert health(stranger)["status"] == "ok"
        headers = {"Authorization": "Bearer schlüssel".encode()}
        assert httpx.get(f"{url}models", headers=headers).status_code == 200


def test_the_key_works_with_openais_client(workspace: Workspace, tiny_model: Path) -> None:
    with serving(workspace, make_engine(tiny_model), api_key="sk-1") as stranger:
        assert ask(client_of(str(stranger.base_url), "sk-1")).model == "v0001"


def test_a_damaged_version_is_refused_by_name_only(
    own_workspace: Workspace, tiny_model: Path
) -> None:
    _damage(own_workspace, "v0002")
    with serving(own_workspace, make_engine(tiny_model)) as client:
        with pytest.raises(openai.InternalServerError, match="server's log says why") as told:
            ask(client, model="v0002")
        assert str(own_workspace.folder) not in str(told.value)
        assert ask(client).model == "v0001"


def test_a_damaged_release_leaves_the_old_one_answering(
    own_workspace: Workspace, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _damage(own_workspace, "v0002")
    with serving(own_workspace, make_engine(tiny_model)) as client:
        releases.promote(own_workspace.releases, "v0002", "test")
        wait_until(lambda: "v0001 goes on answering" in caplog.text, "the refusal in the log")
        assert "adapter_config.json is missing or was changed" in caplog.text
        assert ask(client).model == health(client)["version"] == "v0001"
        own_workspace.releases.write_text("{half", encoding="utf-8")
        wait_until(lambda: "releases.json is damaged" in caplog.text, "the second refusal")
        assert ask(client).model == "v0001"
        own_workspace.releases.unlink()
        wait_until(lambda: health(client)["version"] == "v0000", "the release of the base")
        assert ask(client).model == "v0000"
    assert sum("v0001 goes on answering" in message for message in caplog.messages) == 2


def test_what_no_alias_names_is_unloaded_when_there_are_too_many(
    own_workspace: Workspace, tiny_model: Path
) -> None:
    engine = make_engine(tiny_model)
    with serving(own_workspace, engine, max_versions=1) as client:
        assert engine.loaded == {"v0000", "v0001"}
        expected = ask(client, model="v0002").choices
        wait_until(lambda: "v0002" not in engine.loaded, "the unloading of v0002")
        releases.hold(own_workspace.releases, "v0002", "test")
        wait_until(lambda: "v0002" in engine.loaded, "the candidate")
        assert ask(client, model="candidate").choices == expected
        assert engine.loaded == {"v0000", "v0001", "v0002"}


def _damage(workspace: Workspace, version: str) -> None:
    path = workspace.versions / version / "adapter/adapter_config.json"
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
