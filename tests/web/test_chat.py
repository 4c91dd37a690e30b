"""The chat: answers with and without a script, citations, thumbs, keys, and what users wrote."""

import html
import json
import re
import time

import pytest

from llama_factory import operate
from llama_factory.serving import knowledge
from tests.knowledge.books import SHEET
from tests.serving.parameters import small_workspace
from tests.serving.scripted_answers import ScriptedEngine
from tests.web.bots import EVIL
from tests.web.browsing import Visitor

ASK = {"prompt": "How long is the warranty?", "version": "production"}


def turns(*texts):
    roles = ("user", "assistant")
    return [json.dumps({"role": roles[n % 2], "content": text}) for n, text in enumerate(texts)]


def kept_turns(text):
    kept = re.findall(r'name="turns" value="([^"]*)"', text)
    return [json.loads(html.unescape(each)) for each in kept]


@pytest.fixture
def folder(tmp_path):
    return small_workspace(tmp_path).folder


@pytest.fixture
def talk(folder):
    with Visitor.beside_api(folder, ScriptedEngine(f"Hello from {{version}}. {EVIL}")) as visitor:
        yield visitor


@pytest.mark.parametrize(("language", "word"), [("en", "Your question"), ("zh", "你的问题")])
def test_the_page_answers_in_both_languages(talk, language, word):
    text = talk.text("/chat", **{"accept-language": language})
    assert word in text
    assert 'data-api="./v1/"' in text
    assert 'name="key"' not in text


@pytest.mark.parametrize(("language", "word"), [("en", "--no-api"), ("zh", "未与 API")])
def test_without_the_api_it_says_how_to_get_one(page, language, word):
    assert word in page.text("/chat", **{"accept-language": language})
    assert page.post("/chat", ASK).status_code == 409


def test_a_form_without_a_script_gets_a_whole_answer(talk):
    answer = talk.post("/chat", ASK | {"turns": turns(EVIL, "Yes."), "temperature": "0"})
    assert answer.status_code == 200
    assert "Hello from v0000." in answer.text
    assert EVIL not in answer.text
    kept = kept_turns(answer.text)
    assert [each["content"] for each in kept[:3]] == [EVIL, "Yes.", ASK["prompt"]]
    assert kept[3] == {"role": "assistant", "content": f"Hello from v0000. {EVIL}"}


def test_all_that_a_person_chose_reaches_the_engine(folder):
    engine = ScriptedEngine()
    with Visitor.beside_api(folder, engine) as visitor:
        chosen = {"version": "v0000", "temperature": "0.25", "max_tokens": "7"}
        more = {"top_p": "0.5", "seed": "11", "stop": "END\n\nSTOP", "system": "Be short."}
        visitor.post("/chat", ASK | chosen | more | {"turns": turns("A", "B")})
    (version, asked, options) = engine.asked[-1]
    assert version == "v0000"
    assert [each.content for each in asked.messages] == ["Be short.", "A", "B", ASK["prompt"]]
    assert (options.temperature, options.max_tokens) == (0.25, 7)
    assert (options.top_p, options.seed, options.stop) == (0.5, 11, ("END", "STOP"))


def test_the_script_of_the_page_is_served_and_the_api_streams_beside_it(talk):
    assert "chat/completions" in talk.get("/static/chat.js").text
    body = {"model": "production", "messages": [{"role": "user", "content": "?"}], "stream": True}
    assert "data: [DONE]" in talk.client.post("/v1/chat/completions", json=body).text


@pytest.mark.parametrize("version", ["v9999", EVIL, "../../etc/passwd"])
def test_an_unknown_version_is_told_and_the_question_kept(talk, version):
    answer = talk.post("/chat", ASK | {"version": version})
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert EVIL not in answer.text
    assert f">{ASK['prompt']}</textarea>" in answer.text


def test_calls_of_tools_are_shown_and_their_results_are_told(folder):
    call = '<tool_call>\n{"name": "price", "arguments": {"of": "<b>"}}\n</tool_call>'
    engine = ScriptedEngine(call)
    tool = {"type": "function", "function": {"name": "price", "parameters": {"type": "object"}}}
    chosen = ASK | {"tools": json.dumps([tool])}
    with Visitor.beside_api(folder, engine) as visitor:
        answer = visitor.post("/chat", chosen)
        assert "It calls price" in answer.text
        assert "<b>" not in answer.text
        assert "What price gives" in answer.text
        kept = re.findall(r'name="turns" value="([^"]*)"', answer.text)
        engine.script = "It is 5."
        told = {"turns": [*map(html.unescape, kept)], "results": "5", "prompt": ""}
        assert "It is 5." in visitor.post("/chat", chosen | told).text
    asked = engine.asked[-1][1].messages
    assert [(each.role, each.content) for each in asked[-1:]] == [("tool", "5")]
    assert asked[1].tool_calls[0].name == "price"


@pytest.mark.parametrize("tools", ["{", "[5]"])
def test_tools_that_cannot_be_read_are_told(talk, tools):
    answer = talk.post("/chat", ASK | {"tools": tools})
    assert (answer.status_code, 'role="alert"' in answer.text) == (400, True)
    assert f">{ASK['prompt']}</textarea>" in answer.text


@pytest.mark.parametrize("turn", ["{", "5", '{"role": "system", "content": "x"}'])
def test_turns_that_are_none_are_refused(talk, turn):
    assert talk.post("/chat", ASK | {"turns": [turn]}).status_code == 422


@pytest.mark.parametrize("wrong", [{"temperature": "9"}, {"max_tokens": "0"}])
def test_values_out_of_range_are_refused(talk, wrong):
    assert talk.post("/chat", ASK | wrong).status_code == 422


@pytest.mark.parametrize("path", ["/chat", "/chat/feedback"])
def test_a_form_of_another_page_asks_nothing(talk, path):
    data = ASK | {"completion_id": "x", "rating": "up"}
    assert talk.client.post(path, data=data).status_code == 403
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert talk.post(path, data, **elsewhere).status_code == 403


def test_a_thumb_down_with_a_correction_waits_for_a_reviewer(folder, talk):
    text = talk.post("/chat", ASK).text
    (answered,) = re.findall(r'name="completion_id" value="([^"]+)"', text)
    said = {"completion_id": answered, "rating": "down", "correction": f"31 months {EVIL}"}
    done = talk.post("/chat/feedback", said)
    assert (done.status_code, done.headers["location"]) == (303, "../chat")
    (kept,) = operate.feedback(folder)
    assert kept.judged.feedback.correction == said["correction"]
    assert kept.judged.state == "waiting"
    assert "Kept." in talk.text("/chat")


def test_feedback_on_no_answer_is_refused_with_the_reason(talk):
    answer = talk.post("/chat/feedback", {"completion_id": "chatcmpl-none", "rating": "up"})
    assert answer.status_code == 404
    assert "no answer" in answer.text


def test_an_api_with_keys_asks_for_one(folder):
    with Visitor.beside_api(folder, ScriptedEngine(), api_key="a-secret-key") as visitor:
        assert 'name="key"' in visitor.text("/chat")
        assert "API key is missing or wrong" in visitor.post("/chat", ASK).text
        answer = visitor.post("/chat", ASK | {"key": "a-secret-key"})
        assert "Hello from v0000." in answer.text
        assert "a-secret-key" not in answer.text
        assert visitor.post("/chat", ASK | {"key": "ключ\r\n"}).status_code == 400


def test_documents_are_cited(folder, monkeypatch):
    monkeypatch.setattr(knowledge, "LOOK_SECONDS", 0.01)
    (folder / "knowledge").mkdir()
    sheet = f"{SHEET}\n\n# Warranty of the lamp\n\nThe warranty: 31 months. {EVIL}\n"
    (folder / "knowledge" / "lamp.md").write_text(sheet, encoding="utf-8")
    with Visitor.beside_api(folder, ScriptedEngine("31 months [1], or [8].")) as visitor:
        for _ in range(500):
            text = visitor.post("/chat", ASK | {"knowledge": "true"}).text
            if "lamp.md" in text:
                break
            time.sleep(0.01)
        assert "<strong>lamp.md</strong>" in text
        assert re.search(r"passages that there are not: <span>8</span>", text)
        assert EVIL not in text
        assert "<strong>lamp.md" not in visitor.post("/chat", ASK).text
