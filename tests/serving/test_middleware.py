"""What a request passes before its body is parsed, and connections that ask nothing."""

import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from llama_factory.core.settings import Settings
from llama_factory.serving import connections, middleware, refusal
from llama_factory.serving.connections import Connection
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions.workspace import Workspace
from tests.serving.running import ask, health, make_engine, serving, stream, wait_until

BODY = {"model": "production", "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}]}
ORIGIN = "http://localhost:3000"


@pytest.fixture(scope="module")
def guarded(workspace: Workspace, tiny_model: Path) -> Iterator[OpenAI]:
    """A server with a key, a small limit and an origin."""
    more = {"max_body_mb": 1, "allowed_origins": [ORIGIN]}
    with serving(workspace, make_engine(tiny_model), api_key="sk-1", **more) as client:
        yield client


@pytest.fixture(scope="module")
def headers() -> dict[str, str]:
    return {"Authorization": "Bearer sk-1"}


def url(client: OpenAI, path: str = "/v1/chat/completions") -> str:
    return str(client.base_url.join(path))


def opened(client: OpenAI, sent: bytes = b"") -> socket.socket:
    made = socket.create_connection((client.base_url.host, client.base_url.port), timeout=60)
    made.sendall(sent)
    return made


def head(*lines: str) -> bytes:
    first = ("POST /v1/chat/completions HTTP/1.1", "Host: test")
    return "\r\n".join([*first, *lines, "", ""]).encode()


def read_all(made: socket.socket) -> bytes:
    """What the server says until it closes the connection."""
    said = b""
    try:
        while piece := made.recv(65536):
            said += piece
    except ConnectionResetError:
        pass
    return said


def dribble(made: socket.socket) -> None:
    """Send a head that never ends, until the server has had enough."""
    for _ in range(2000):
        made.sendall(b"G")
        time.sleep(0.01)


LONG, CHUNKED = "Content-Length: 100000000", "Transfer-Encoding: chunked"
WRONG, RIGHT = "Authorization: Bearer wrong", "Authorization: Bearer sk-1"


@pytest.mark.parametrize(
    ("length", "key", "status"),
    [
        (LONG, "X-Key: none", b"401"),
        (LONG, WRONG, b"401"),
        (CHUNKED, WRONG, b"401"),
        (LONG, RIGHT, b"413"),
    ],
)
def test_a_request_is_refused_before_its_body_is_sent(
    guarded: OpenAI, monkeypatch: pytest.MonkeyPatch, length: str, key: str, status: bytes
) -> None:
    monkeypatch.setattr(refusal, "LINGER_SECONDS", 0.05)
    with opened(guarded, head(length, key)) as made:
        said = read_all(made)
    assert said.startswith(b"HTTP/1.1 " + status)
    assert b"connection: close" in said.lower()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_beyond_the_limit_is_refused(
    guarded: OpenAI, headers: dict[str, str], is_chunked: bool
) -> None:
    body = json.dumps(BODY | {"user": "x" * 1_048_576}).encode()
    sent: Any = (body[i : i + 50_000] for i in range(0, len(body), 50_000)) if is_chunked else body
    answer = httpx.post(url(guarded), content=sent, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
    assert "serving.max_body_mb" in answer.json()["error"]["message"]


def test_a_body_within_the_limit_is_read(guarded: OpenAI, headers: dict[str, str]) -> None:
    body = BODY | {"user": "x" * 900_000}
    assert httpx.post(url(guarded), json=body, headers=headers).status_code == 200


@pytest.mark.variants
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/nothing", "/", "/docs", "/health/../v1/models"]
)
def test_nothing_but_health_is_open_without_the_key(guarded: OpenAI, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert httpx.request(method, url(guarded, path)).status_code == 401
    assert httpx.get(url(guarded, "/health")).status_code == 200


def test_a_refused_request_leaves_its_connection_usable(
    guarded: OpenAI, headers: dict[str, str]
) -> None:
    with httpx.Client() as kept:
        assert kept.get(url(guarded, "/v1/models")).status_code == 401
        assert kept.get(url(guarded, "/v1/models"), headers=headers).status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /health HT", head("Content-Len")[:-4]])
def test_a_head_that_does_not_arrive_is_not_waited_for(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.2)
    with opened(client, sent) as made:
        assert read_all(made) == b""


def test_a_head_sent_byte_by_byte_is_not_waited_for(
    client: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after a first request: uvicorn's own time-out ends with the first byte."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with opened(client, b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n") as made:
        assert made.recv(65536).startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError, match=r"reset|pipe"):
            dribble(made)


def test_a_body_that_does_not_arrive_is_not_waited_for(
    guarded: OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.2)
    monkeypatch.setattr(refusal, "LINGER_SECONDS", 0.05)
    sent = head("Content-Length: 100", "Authorization: Bearer sk-1")
    with opened(guarded, sent + b"{") as made:
        said = read_all(made)
    assert said.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within" in said


def test_idle_connections_shut_nobody_out(
    own_workspace: Workspace, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(own_workspace, make_engine(tiny_model)) as client:
        monkeypatch.setattr(Connection, "max_connections", 8)
        idle = [opened(client) for _ in range(40)]
        assert health(client)["status"] == "ok"
        assert ask(client).model == "v0001"
        for made in idle:
            made.close()


@pytest.mark.slow
def test_an_answer_in_progress_is_not_ended_for_idle_connections(
    own_workspace: Workspace, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(own_workspace, make_engine(tiny_model)) as client:
        monkeypatch.setattr(Connection, "max_connections", 4)
        chunks = ask(client, stream=True, max_tokens=300, model="v0000")
        next(chunks)
        idle = [opened(client) for _ in range(12)]
        assert list(chunks)[-1].choices[0].finish_reason
        for made in idle:
            made.close()


def test_browsers_are_answered_where_their_origin_is_allowed(
    guarded: OpenAI, headers: dict[str, str]
) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,authorization,x-stainless-lang",
    }
    preflight = httpx.options(url(guarded), headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "x-stainless-lang" in preflight.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in preflight.headers
    answers = [
        httpx.post(url(guarded), json=BODY, headers=headers | {"Origin": ORIGIN}),
        httpx.post(url(guarded), json=BODY, headers={"Origin": ORIGIN}),
        httpx.post(url(guarded), json={}, headers=headers | {"Origin": ORIGIN}),
    ]
    assert [answer.status_code for answer in answers] == [200, 401, 400]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_browsers_of_other_pages_are_not_answered(client: OpenAI, guarded: OpenAI) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    for each in (client, guarded):
        preflight = httpx.options(url(each), headers=asked)
        assert preflight.status_code in (400, 401, 405)
        assert "access-control-allow-origin" not in preflight.headers
        answer = httpx.get(url(each, "/health"), headers={"Origin": "http://evil.example"})
        assert "access-control-allow-origin" not in answer.headers


def test_every_page_may_be_allowed_but_never_with_credentials(
    workspace: Workspace, tiny_model: Path
) -> None:
    with serving(workspace, make_engine(tiny_model), allowed_origins=["*"]) as client:
        answer = httpx.get(url(client, "/health"), headers={"Origin": "http://any.example"})
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    "origin", ["localhost:3000", "http://a/", "http://a/b", "null", "", "ftp://a"]
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    assert issubclass(ServingSettings, Settings)
    with pytest.raises(ValueError, match="is no origin"):
        ServingSettings(allowed_origins=[origin])


def test_every_request_has_an_id_and_a_line_in_the_log(
    client: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="llama_factory.serving")
    raw = client.chat.completions.with_raw_response.create(
        model="production", max_tokens=3, messages=BODY["messages"]
    )
    given = raw.headers["x-request-id"]
    assert re.fullmatch(r"req-[0-9a-f]{32}", given)
    usage = raw.parse().usage
    wait_until(lambda: given in caplog.text, "the line in the log")
    line = next(message for message in caplog.messages if given in message)
    assert re.fullmatch(
        rf"POST /v1/chat/completions 200 id={given} version=v0001 "
        rf"prompt_tokens={usage.prompt_tokens} completion_tokens=3 finish=length "
        r"seconds=\d+\.\d{3}",
        line,
    )


@pytest.mark.slow
def test_streams_and_refusals_are_logged_too(
    client: OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="llama_factory.serving")
    stream(client, extra_headers={"x-request-id": "mine-1"})
    answer = httpx.post(url(client), json={}, headers={"x-request-id": "mine-2"})
    assert answer.headers["x-request-id"] == "mine-2"
    assert httpx.get(url(client, "/no%0Aline")).headers["x-request-id"].startswith("req-")
    forged = httpx.get(url(client, "/v1/models"), headers={"x-request-id": "a b\tc"})
    assert forged.headers["x-request-id"].startswith("req-")
    wait_until(lambda: len(caplog.messages) >= 4, "the lines in the log")
    assert "200 id=mine-1 version=v0001 prompt_tokens=" in caplog.messages[0]
    assert "POST /v1/chat/completions 400 id=mine-2 seconds=" in caplog.messages[1]
    assert "GET /no%0Aline 404 id=req-" in caplog.messages[2]
    assert health(client)["status"] == "ok"
    assert not any("/health" in message for message in caplog.messages)


def test_what_nobody_foresaw_has_an_id_and_an_origin(
    own_workspace: Workspace, tiny_model: Path
) -> None:
    engine = make_engine(tiny_model)
    engine.answer = lambda *_: 1 // 0  # type: ignore[method-assign,assignment,return-value]
    with serving(own_workspace, engine, allowed_origins=[ORIGIN]) as client:
        answer = httpx.post(url(client), json=BODY, headers={"Origin": ORIGIN})
        assert answer.status_code == 500
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["x-request-id"]
