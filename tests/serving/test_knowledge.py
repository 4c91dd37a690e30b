"""Chat completions that draw on documents: per request, with citations, and kept without them."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest

from llama_factory.knowledge.settings import KnowledgeSettings
from llama_factory.serving import knowledge
from llama_factory.serving.api import create_app
from llama_factory.serving.conversations import read_conversations
from llama_factory.serving.settings import ServingSettings
from tests.knowledge.books import SHEET
from tests.serving.parameters import small_workspace
from tests.serving.scripted_answers import ScriptedEngine

TURNS = [{"role": "user", "content": "How long is the warranty?"}]
ASKED = {"model": "production", "messages": TURNS}
USE = ASKED | {"knowledge": {"use": True}}
PATH = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(knowledge, "LOOK_SECONDS", 0.01)


@pytest.fixture
def bot(tmp_path):
    workspace = small_workspace(tmp_path)
    (workspace.folder / "knowledge").mkdir()
    (workspace.folder / "knowledge" / "lamp.md").write_text(SHEET, encoding="utf-8")
    return workspace


@asynccontextmanager
async def serving(bot, script="31 months [1], or [8].", **settings):
    engine = ScriptedEngine(script)
    chosen = KnowledgeSettings(**settings)
    app = create_app(bot, ServingSettings(), engine, knowledge=chosen)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=30) as client,
    ):
        yield client, engine


async def until_cited(client, file="lamp.md"):
    """The first answer that draws on a document."""
    for _ in range(2000):
        body = (await client.post(PATH, json=USE)).json()
        if [each["file"] for each in body["citations"]][:1] == [file]:
            return body
        await asyncio.sleep(0.01)
    raise AssertionError("the document was not found")


def asks(work):
    """Run a coroutine function as a test."""

    def test(bot):
        asyncio.run(work(bot))

    test.__name__ = work.__name__
    return test


@asks
async def test_answers_draw_on_documents_where_the_request_says_so(bot):
    async with serving(bot) as (client, engine):
        body = await until_cited(client)
        assert body["citations"][0] == {
            "n": 1,
            "file": "lamp.md",
            "heading": "Lamp L7 > Warranty",
            "place": "line 5",
            "text": "The warranty of the lamp L7 is 31 months.",
            "is_cited": True,
        }
        assert body["unknown_citations"] == [8]
        prompt = engine.asked[-1][1].messages[-1].content
        assert "The warranty of the lamp L7 is 31 months." in prompt
        assert prompt.endswith("Question: How long is the warranty?")
        plain = (await client.post(PATH, json=ASKED)).json()
        assert "citations" not in plain
        assert engine.asked[-1][1].messages[-1].content == "How long is the warranty?"


@asks
async def test_the_setting_says_what_silent_requests_get(bot):
    async with serving(bot, use=True) as (client, _):
        await until_cited(client)
        assert (await client.post(PATH, json=ASKED)).json()["citations"]
        off = ASKED | {"knowledge": {"use": False}}
        assert "citations" not in (await client.post(PATH, json=off)).json()


@asks
async def test_a_stream_carries_the_citations_in_the_chunk_that_ends_it(bot):
    async with serving(bot) as (client, _):
        await until_cited(client)
        text = (await client.post(PATH, json=USE | {"stream": True, "n": 2})).text
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
        chunks = [json.loads(line) for line in lines if line != "[DONE]"]
        ending = [each for each in chunks if each["choices"][0]["finish_reason"]]
        assert len(ending) == 2
        assert all(each["citations"][0]["is_cited"] for each in ending)
        assert all("citations" not in each for each in chunks if each not in ending)


@asks
async def test_the_number_of_passages_is_the_requests(bot):
    async with serving(bot, min_coverage=0) as (client, _):
        await until_cited(client)
        one = USE | {"knowledge": {"use": True, "top_k": 1}}
        assert len((await client.post(PATH, json=one)).json()["citations"]) == 1


@asks
async def test_nothing_that_fits_is_said_to_the_model(bot):
    async with serving(bot) as (client, engine):
        await until_cited(client)
        asked = USE | {"messages": [{"role": "user", "content": "Capital of France?"}]}
        assert (await client.post(PATH, json=asked)).json()["citations"] == []
        assert "hold nothing that fits" in engine.asked[-1][1].messages[-1].content


@asks
async def test_a_changed_document_is_found_while_the_server_runs(bot):
    async with serving(bot) as (client, _):
        await until_cited(client)
        (bot.folder / "knowledge" / "lamp.md").unlink()
        (bot.folder / "knowledge" / "new.txt").write_text("The warranty is 48 months now.")
        body = await until_cited(client, "new.txt")
        assert body["citations"][0]["text"] == "The warranty is 48 months now."


@asks
async def test_wrong_fields_are_refused_by_name(bot):
    async with serving(bot) as (client, _):
        for value, name in (
            ({"use": "yes"}, "use"),
            ({"top_k": 0}, "top_k"),
            ({"top_k": 51}, "top_k"),
            ({"folder": "/etc"}, "folder"),
            (5, "knowledge"),
        ):
            answer = await client.post(PATH, json=ASKED | {"knowledge": value})
            assert answer.status_code == 400, value
            assert name in answer.text


def test_a_server_without_documents_says_how_to_add_them(tmp_path):
    async def work():
        async with serving(small_workspace(tmp_path)) as (client, _):
            answer = await client.post(PATH, json=USE)
            assert answer.status_code == 400
            assert "knowledge FOLDER add FILE" in answer.json()["error"]["message"]
            assert "citations" not in (await client.post(PATH, json=ASKED)).json()

    asyncio.run(work())


def test_conversations_are_kept_as_asked_with_what_they_cite(bot):
    async def work():
        async with serving(bot) as (client, _):
            return await until_cited(client)

    body = asyncio.run(work())
    kept = {each.completion_id: each for each in read_conversations(bot)}[body["id"]]
    assert [turn.content for turn in kept.row.messages] == [
        "How long is the warranty?",
        "31 months [1], or [8].",
    ]
    assert kept.citations[0]["file"] == "lamp.md"
    assert kept.citations[0]["is_cited"] is True
    assert "text" not in kept.citations[0]
