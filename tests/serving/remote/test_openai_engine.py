"""Another server as the engine: here one of our own, asked in OpenAI's protocol."""

import asyncio

import pytest

from llama_factory.core.errors import VersionError
from llama_factory.core.types import Message
from llama_factory.inference.question import Answer, Options, Question, RequestError, TextPrompt
from llama_factory.inference.request import Constraint
from llama_factory.inference.settings import InferenceSettings
from llama_factory.model.chat.prompt_format import USUAL
from llama_factory.serving.engines import ENGINES
from llama_factory.serving.engines.openai import Openai
from llama_factory.serving.errors import EngineDownError
from llama_factory.serving.remote.child import free_port
from llama_factory.serving.remote.openai_protocol import OpenaiReader, request
from llama_factory.versions import store
from tests.serving.running import QUESTION, answer_alone, settings_of

ASKED = Question((Message("user", QUESTION),))
GREEDY = Options(max_tokens=16, temperature=0.0)


async def ask(engine, version, options=GREEDY, asked=ASKED):
    return [piece async for piece in engine.answer(version, asked, options)][-1]


def on_engine(settings, workspace, model, work):
    async def whole():
        engine = settings.open(settings_of(model), workspace, USUAL, InferenceSettings())
        try:
            await work(engine)
        finally:
            await engine.close()

    asyncio.run(whole())


@pytest.mark.slow
def test_named_versions_answer_through_another_server(client, workspace, tiny_model):
    url = str(client.base_url)
    settings = Openai(url=url, model="v0000", models={"v0001": "production"})

    async def work(engine):
        await engine.load(store.get(workspace, "v0001"))
        assert engine.loaded == {"v0000", "v0001"}
        for version in ("v0000", "v0001"):
            answer = await ask(engine, version)
            alone = await asyncio.to_thread(answer_alone, tiny_model, workspace, version, QUESTION)
            assert isinstance(answer, Answer)
            assert answer.text == alone
            assert answer.completion_tokens
        await engine.unload("v0001")
        assert engine.loaded == {"v0000"}

    on_engine(settings, workspace, tiny_model, work)


def test_a_version_that_nobody_put_there_is_refused(client, workspace, tiny_model):
    async def work(engine):
        with pytest.raises(VersionError, match=r"v0002 cannot be served.*models: \{v0002: NAME\}"):
            await engine.load(store.get(workspace, "v0002"))

    on_engine(Openai(url=str(client.base_url)), workspace, tiny_model, work)


def test_a_name_that_the_server_does_not_have_is_refused(client, workspace, tiny_model):
    async def work(engine):
        with pytest.raises(VersionError, match="refuses to answer as 'nobody'"):
            await engine.load(store.get(workspace, "v0002"))

    settings = Openai(url=str(client.base_url), models={"v0002": "nobody"})
    on_engine(settings, workspace, tiny_model, work)


def test_a_server_that_is_not_there_is_down(workspace, tiny_model):
    async def work(engine):
        with pytest.raises(EngineDownError):
            await engine.load(store.get(workspace, "v0000"))

    on_engine(Openai(url=f"http://127.0.0.1:{free_port()}/v1"), workspace, tiny_model, work)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("top_k", {"top_k": 5}),
        ("min_p", {"min_p": 0.1}),
        ("repetition_penalty", {"repetition_penalty": 1.1}),
        ("min_tokens", {"min_tokens": 1}),
        ("stop_token_ids", {"stop_token_ids": (1,)}),
        ("ignore_eos", {"ignore_eos": True}),
        ("structured_outputs", {"constraint": Constraint("regex", "a+")}),
        ("presence_penalty", {"presence_penalty": 2.5}),
    ],
)
def test_what_the_protocol_has_no_word_for_is_refused_by_name(name, options):
    with pytest.raises(RequestError) as caught:
        request("m", ASKED, Options(max_tokens=1, **options))
    assert caught.value.place == name


def test_tools_and_thinking_are_refused_by_name():
    for name, question in {
        "tools": Question(ASKED.messages, tools="[{}]"),
        "enable_thinking": Question(ASKED.messages, enable_thinking=True),
        "messages.tool_calls": Question((*ASKED.messages, Message("tool", "3"))),
    }.items():
        with pytest.raises(RequestError) as caught:
            request("m", question, GREEDY)
        assert caught.value.place == name


def test_a_chat_and_a_text_become_bodies():
    options = Options(
        max_tokens=2,
        temperature=0.5,
        stop=("a",),
        seed=3,
        logit_bias={4: 1.0},
        num_logprobs=2,
        constraint=Constraint("json_schema", '{"type": "object"}'),
    )
    path, body = request("m", ASKED, options)
    assert path == "/chat/completions"
    assert body["messages"] == [{"role": "user", "content": QUESTION}]
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    assert (body["stop"], body["seed"], body["logit_bias"]) == (["a"], 3, {"4": 1.0})
    path, body = request("m", TextPrompt("once"), options)
    assert (path, body["prompt"], body["logprobs"]) == ("/completions", "once", 2)


def test_log_probabilities_are_read_from_both_shapes():
    reader = OpenaiReader()
    entry = {"token": "a", "logprob": -0.5, "bytes": [97]}
    top = [entry, {"token": "b", "logprob": -1.5, "bytes": None}]
    chat = {"delta": {"content": "a"}, "logprobs": {"content": [entry | {"top_logprobs": top}]}}
    text = {
        "text": "b",
        "finish_reason": "length",
        "logprobs": {"tokens": ["b"], "token_logprobs": [-1.0], "top_logprobs": [{"b": -1.0}]},
    }
    pieces = [*reader.take({"choices": [chat]}), *reader.take({"choices": [text]})]
    assert [piece.text for piece in pieces] == ["a", "b"]
    answer = reader.answer()
    assert answer.finish_reason == "length"
    assert answer.logprobs[0].bytes == (97,)
    assert [each.text for each in answer.logprobs[0].alternatives] == ["a", "b"]
    assert answer.logprobs[1].alternatives[0].logprob == -1.0


def test_an_end_that_never_came_is_an_error():
    with pytest.raises(EngineDownError):
        OpenaiReader().answer()


def test_settings_name_what_is_wrong():
    assert isinstance(ENGINES.parse({"type": "openai", "url": "http://a/v1/"}), Openai)
    assert Openai(url="http://a/v1/").url == "http://a/v1"
    with pytest.raises(ValueError, match="'localhost:1' is no address"):
        Openai(url="localhost:1")
