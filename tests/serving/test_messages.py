"""Anthropic's client and calls, against an engine whose answers are known."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from openai import OpenAI

from llama_factory.inference.question import Options, Question
from llama_factory.versions.workspace import Workspace
from tests.serving.running import serving
from tests.serving.scripted_answers import ScriptedEngine

ASKED = [{"role": "user", "content": "Hi"}]
ADD = {"name": "add", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def served(workspace: Workspace, engine: ScriptedEngine) -> Iterator[OpenAI]:
    with serving(workspace, engine) as client:
        yield client


@pytest.fixture
def client(served: OpenAI, engine: ScriptedEngine) -> Iterator[anthropic.Anthropic]:
    usual = engine.script
    engine.asked.clear()
    url = str(served.base_url).removesuffix("v1/")
    yield anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    engine.script = usual


def post(client: anthropic.Anthropic, **body: Any) -> httpx.Response:
    whole = {"model": "production", "max_tokens": 9, "messages": ASKED} | body
    return httpx.post(f"{client.base_url}v1/messages", json=whole)


def create(client: anthropic.Anthropic, **options: Any) -> anthropic.types.Message:
    usual: dict[str, Any] = {"model": "production", "max_tokens": 9, "messages": ASKED}
    return client.messages.create(**usual | options)


def test_a_whole_answer_and_how_it_was_asked(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    answer = create(
        client,
        system=[{"type": "text", "text": "Be brief."}],
        stop_sequences=["x"],
        metadata={"user_id": "ann"},
        extra_body={"temperature": 0.5, "top_p": 0.75, "top_k": 40},
    )
    assert answer.content[0].text == "Hello from v0001."  # type: ignore[union-attr]
    assert (answer.model, answer.stop_reason) == ("v0001", "end_turn")
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (2, 6)
    assert answer.usage.cache_read_input_tokens == 5
    _, prompt, options = engine.asked[-1]
    assert isinstance(prompt, Question)
    assert [(m.role, m.content) for m in prompt.messages] == [
        ("system", "Be brief."),
        ("user", "Hi"),
    ]
    assert options == Options(max_tokens=9, temperature=0.5, top_p=0.75, top_k=40, stop=("x",))


def test_a_stream_adds_up_to_the_whole_answer(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="production", max_tokens=9, messages=ASKED) as stream:  # type: ignore[arg-type]
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(pieces) == 6
    assert "".join(pieces) == message.content[0].text == "Hello from v0001."  # type: ignore[union-attr]
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 6)


def test_tools_are_called_whole_and_streamed_and_their_results_read(
    client: anthropic.Anthropic, engine: ScriptedEngine
) -> None:
    engine.script = f"I add.{CALL}"
    whole = create(client, tools=[ADD], tool_choice={"type": "auto"})
    text, use = whole.content
    assert (text.text, use.name, use.input) == ("I add.", "add", {"a": 2})  # type: ignore[union-attr]
    assert whole.stop_reason == "tool_use"
    with client.messages.stream(
        model="production",
        max_tokens=9,
        messages=ASKED,  # type: ignore[arg-type]
        tools=[ADD],  # type: ignore[list-item]
    ) as stream:
        streamed = stream.get_final_message()
    assert [block.type for block in streamed.content] == ["text", "tool_use"]
    assert streamed.content[1].input == {"a": 2}  # type: ignore[union-attr]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "3"}  # type: ignore[union-attr]
    turns = [
        *ASKED,
        {"role": "assistant", "content": [block.model_dump() for block in whole.content]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    engine.script = "Three."
    assert create(client, messages=turns, tools=[ADD]).stop_reason == "end_turn"
    prompt = engine.asked[-1][1]
    assert isinstance(prompt, Question)
    assert [m.role for m in prompt.messages] == ["user", "assistant", "tool", "user"]
    assert json.loads(prompt.messages[1].tool_calls[0].arguments) == {"a": 2}
    create(client, tools=[ADD], tool_choice={"type": "tool", "name": "add"})
    constraint = engine.asked[-1][2].constraint
    assert constraint is not None
    assert '"add"' in constraint.text


def test_tokens_are_counted(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="production", messages=ASKED)  # type: ignore[arg-type]
    assert counted.input_tokens == len("Hi")


@pytest.mark.slow
def test_what_cannot_be_read_is_named(client: anthropic.Anthropic) -> None:
    picture = {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/x.png"}}
    wrong: dict[str, dict[str, Any]] = {
        "messages.0.content.0": {"messages": [{"role": "user", "content": [picture]}]},
        "messages.0.role": {"messages": [{"role": "system", "content": "x"}]},
        "max_tokens": {"max_tokens": 0},
        "temperature": {"temperature": 1.5},
        "tool_choice": {"tool_choice": {"type": "sometimes"}},
        "tools.0": {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        "system.0": {"system": [picture]},
        "mcp_servers": {"mcp_servers": [{"url": "http://127.0.0.1"}]},
        "messages.0.content.0.content.0": {
            "messages": [
                {"role": "user", "content": [{"type": "tool_result", "content": [picture]}]}
            ]
        },
    }
    for place, body in wrong.items():
        answer = post(client, **body)
        assert answer.status_code == 400, (place, answer.text)
        assert answer.json()["error"]["message"].startswith(f"{place}: "), answer.text
    with pytest.raises(anthropic.NotFoundError, match="v9999"):
        create(client, model="v9999")


def test_a_failure_in_a_stream_is_an_event(
    client: anthropic.Anthropic, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> Any:
        yield await anext(usual("v0001", None, Options(max_tokens=1)))  # type: ignore[arg-type]
        raise RuntimeError("broken")

    usual = ScriptedEngine().__class__.answer.__get__(engine)
    monkeypatch.setattr(engine, "answer", broken)
    lines = post(client, stream=True).text.splitlines()
    assert lines[0] == "event: message_start"
    assert "event: error" in lines
    assert "broken" not in "".join(lines)


@pytest.mark.slow
def test_the_key_may_come_as_anthropics_clients_send_it(
    workspace: Workspace, engine: ScriptedEngine
) -> None:
    with serving(workspace, ScriptedEngine(), api_key="secret") as served:
        url = str(served.base_url).removesuffix("v1/")
        right = anthropic.Anthropic(base_url=url, api_key="secret", max_retries=0)
        assert create(right).model == "v0001"
        wrong = anthropic.Anthropic(base_url=url, api_key="other", max_retries=0)
        with pytest.raises(anthropic.AuthenticationError, match="missing or wrong"):
            create(wrong)
