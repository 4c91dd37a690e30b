"""`POST /v1/feedback` on a real server with a tiny model."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from llama_factory.core.types import Message
from llama_factory.data.sources.feedback import read_feedback
from llama_factory.serving import feedback as store
from llama_factory.serving.api import create_app
from llama_factory.serving.conversations import user_hash
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace
from tests.serving.running import QUESTION, make_engine, running, serving


@pytest.fixture
def bot(tmp_path: Path, tiny_model: Path) -> Workspace:
    from tests.serving.running import make_released_workspace

    return make_released_workspace(tmp_path, tiny_model)


def ask(client: OpenAI, text: str = QUESTION, **more: Any) -> Any:
    turns: Any = [{"role": "user", "content": text}]
    return client.chat.completions.create(model="production", messages=turns, **more)


def say(client: OpenAI, answer: Any = "", headers: Any = None, **body: Any) -> httpx.Response:
    completion_id = answer if isinstance(answer, str) else answer.id
    headers = {"Authorization": f"Bearer {client.api_key}", **(headers or {})}
    body = {"completion_id": completion_id, **body}
    headers = {"Content-Type": "application/json", **headers}
    return httpx.post(f"{client.base_url}feedback", content=json.dumps(body), headers=headers)


def test_an_answer_is_rated_and_corrected(bot: Workspace, tiny_model: Path) -> None:
    with serving(bot, make_engine(tiny_model)) as client:
        answer = ask(client, user="ann@example.com")
        response = say(client, answer, rating="down", correction="七天", tags=["wrong"])
    assert response.status_code == 200
    (each,) = read_feedback(bot.feedback).all
    assert response.json()["id"] == each.id
    assert response.json()["version"] == each.version == "v0001"
    given = answer.choices[0].message.content
    assert each.row.messages == (Message("user", QUESTION), Message("assistant", given))
    assert (each.correction, each.tags) == ("七天", ("wrong",))
    assert each.user == user_hash(bot.feedback, "ann@example.com")


@pytest.mark.slow
def test_streamed_and_several_answers_are_rated(bot: Workspace, tiny_model: Path) -> None:
    with serving(bot, make_engine(tiny_model)) as client:
        chunks = [*ask(client, stream=True)]
        assert say(client, chunks[0].id, rating="up").status_code == 200
        several = ask(client, n=2, temperature=1.0, seed=1)
        assert say(client, several, rating="down", index=1).status_code == 200
        assert say(client, several, rating="down", index=2).status_code == 404
    one, other = read_feedback(bot.feedback).all
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert one.row.answer == streamed
    assert other.row.answer == several.choices[1].message.content


@pytest.mark.slow
def test_it_may_come_after_a_restart_and_through_another_server(
    bot: Workspace, tiny_model: Path
) -> None:
    with serving(bot, make_engine(tiny_model)) as client:
        answer = ask(client)
        with serving(bot, make_engine(tiny_model)) as other:
            first = say(other, answer, {"Idempotency-Key": "k1"}, rating="up")
    with serving(bot, make_engine(tiny_model)) as client:
        again = say(client, answer, {"Idempotency-Key": "k1"}, rating="up")
        changed = say(client, answer, {"Idempotency-Key": "k1"}, rating="down")
    assert first.json() == again.json()
    assert changed.status_code == 409
    assert changed.json()["error"]["code"] == "idempotency_key_reused"
    assert len(read_feedback(bot.feedback).all) == 1


@pytest.mark.variants
@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "rating"),
        ({"rating": "sideways"}, "rating"),
        ({"rating": True}, "rating"),
        ({"rating": "up", "correction": "x" * 20_001}, "correction"),
        ({"rating": "up", "correction": "  "}, "correction"),
        ({"rating": "up", "correction": "\ud83d"}, "correction"),
        ({"rating": "up", "comment": "x" * 4_001}, "comment"),
        ({"rating": "up", "tags": ["x"] * 21}, "tags"),
        ({"rating": "up", "tags": ["x" * 65]}, "tags.0"),
        ({"rating": "up", "tags": "wrong"}, "tags"),
        ({"rating": "up", "user": "x" * 257}, "user"),
        ({"rating": "up", "index": -1}, "index"),
        ({"rating": "up", "score": 5}, "score"),
        ({"rating": "up", "completion_id": "x" * 201}, "completion_id"),
        ({"rating": "up", "completion_id": ""}, "completion_id"),
    ],
)
def test_what_is_wrong_is_named(feedback_client: OpenAI, body: Any, place: str) -> None:
    response = say(feedback_client, "chatcmpl-x", **body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == place


@pytest.fixture(scope="module")
def feedback_client(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    from tests.serving.running import make_released_workspace

    bot = make_released_workspace(tmp_path_factory.mktemp("feedback"), tiny_model)
    with serving(bot, make_engine(tiny_model)) as client:
        yield client


@pytest.mark.variants
@pytest.mark.parametrize("name", ["chatcmpl-x", "../../etc/passwd", "七", 'x"y', "x/0", "\n"])
def test_unknown_answers_are_not_found(feedback_client: OpenAI, name: str) -> None:
    response = say(feedback_client, name, rating="up")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "completion_not_found"


@pytest.mark.parametrize("key", ["", "x" * 256, "é"])
def test_an_idempotency_key_is_plain_and_short(feedback_client: OpenAI, key: str) -> None:
    headers = {"Idempotency-Key": key.encode("latin-1")}
    response = say(feedback_client, "chatcmpl-x", headers, rating="up")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "Idempotency-Key"


@pytest.mark.slow
def test_a_full_disk_is_said_and_answers_go_on(
    bot: Workspace, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with serving(bot, make_engine(tiny_model)) as client:
        answer = ask(client)
        with monkeypatch.context() as patch:
            patch.setattr(store, "append_records", full)
            response = say(client, answer, rating="up")
            assert ask(client).choices
        assert response.status_code == 503
        assert response.headers["retry-after"] == "30"
        assert "No space left" in response.json()["error"]["message"]
        assert read_feedback(bot.feedback).all == ()
        assert say(client, answer, rating="up").status_code == 200


class Listening:
    """Is told of ratings; the first one fails."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str, str]] = []
        self.threads: set[int] = set()

    def begun(self, asked: Any, version_id: str) -> None:
        self.threads.add(threading.get_ident())

    def finished(self, outcome: Any) -> None:
        pass

    def feedback(self, completion_id: str, rating: str, version_id: str) -> None:
        self.heard.append((completion_id, rating, version_id))
        self.threads.add(threading.get_ident())
        if len(self.heard) == 1:
            raise RuntimeError("a fault of the observer")


@pytest.mark.slow
def test_observers_are_told_of_new_ratings_on_the_event_loop(
    bot: Workspace, tiny_model: Path
) -> None:
    app, listening = create_app(bot, ServingSettings(), make_engine(tiny_model)), Listening()
    app.state.gateway.observers.append(listening)
    with running(app) as client:
        answer = ask(client, max_tokens=4)
        for rating in ("down", "down", "up"):
            assert say(client, answer, rating=rating).status_code == 200
    assert listening.heard == [(answer.id, "down", "v0001"), (answer.id, "up", "v0001")]
    assert len(listening.threads) == 1


@pytest.mark.slow
def test_nothing_of_conversations_goes_to_the_log(
    bot: Workspace, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(bot, make_engine(tiny_model)) as client, caplog.at_level("DEBUG"):
        answer = ask(client, "a very private question")
        say(client, answer, rating="down", correction="a very private answer", comment="secret")
        say(client, "nobody", rating="down", correction="a very private answer")
    own = [r.getMessage() for r in caplog.records if r.name.startswith("llama_factory")]
    assert own
    assert not [line for line in own if "private" in line or "secret" in line]


@pytest.mark.slow
def test_no_days_means_no_feedback(bot: Workspace, tiny_model: Path) -> None:
    with serving(bot, make_engine(tiny_model), feedback_days=0) as client:
        assert say(client, ask(client), rating="up").status_code == 404
    assert not bot.feedback.exists() or not [*bot.feedback.glob("*.jsonl")]
