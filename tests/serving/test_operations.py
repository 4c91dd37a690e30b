"""`/ready`, `/metrics` and `/openapi.json` of a running server, and who may read them."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from openai import OpenAI

from llama_factory.serving import description
from llama_factory.serving.access import OPEN_PATHS, SCOPES, ApiKey
from llama_factory.serving.api import create_app
from llama_factory.serving.keys import create_key, revoke_key
from llama_factory.serving.readiness import STALLED_SECONDS
from llama_factory.serving.settings import ServingSettings
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.serving.running import (
    HeldEngine,
    ask,
    health,
    make_engine,
    make_released_workspace,
    serving,
    stream,
    wait_until,
)
from tests.serving.test_metrics import parsed


def url(client: OpenAI, path: str) -> str:
    return str(client.base_url.join(path))


def get(client: OpenAI, path: str, key: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.get(url(client, path), headers=headers, timeout=60)


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Any]:
    """A server with a key of each scope, and those keys by name."""
    workspace = make_released_workspace(tmp_path_factory.mktemp("keyed") / "my-bot", tiny_model)
    path = workspace.folder / "keys.json"
    made = {scope: create_key(path, ApiKey(scope, (scope,))) for scope in SCOPES}
    with serving(workspace, make_engine(tiny_model)) as client:
        yield SimpleNamespace(client=client, keys=made, workspace=workspace)


@pytest.mark.variants
@pytest.mark.parametrize(
    ("path", "scopes"),
    [
        ("/v1/models", {"chat"}),
        ("/metrics", {"metrics", "admin"}),
        ("/openapi.json", {"chat", "feedback", "admin", "metrics"}),
        ("/v1/load_lora_adapter", {"admin"}),
        ("/v1/feedback", {"feedback"}),
    ],
)
def test_each_scope_reaches_its_routes_alone(keyed: Any, path: str, scopes: set[str]) -> None:
    assert get(keyed.client, path).status_code == 401
    answers = {name: get(keyed.client, path, key) for name, key in keyed.keys.items()}
    refused = {name for name, answer in answers.items() if answer.status_code == 403}
    assert refused == answers.keys() - scopes
    for name in refused:
        error = answers[name].json()["error"]
        assert error["code"] == "missing_scope"
        assert f"key '{name}'" in error["message"]


def test_keys_are_created_and_revoked_while_the_server_runs(keyed: Any) -> None:
    path = keyed.workspace.folder / "keys.json"
    secret = create_key(path, ApiKey("late", ("chat",), requests_a_minute=1000))
    wait_until(lambda: get(keyed.client, "/v1/models", secret).status_code == 200, "the new key")
    answer = get(keyed.client, "/v1/models", secret)
    assert answer.headers["x-ratelimit-limit-requests"] == "1000"
    revoke_key(path, "late")
    wait_until(lambda: get(keyed.client, "/v1/models", secret).status_code == 401, "its end")
    assert answer.headers.get("www-authenticate") is None
    assert get(keyed.client, "/v1/models", secret).headers["www-authenticate"] == "Bearer"


def test_tokens_of_answers_are_charged(keyed: Any) -> None:
    path = keyed.workspace.folder / "keys.json"
    secret = create_key(path, ApiKey("few", ("chat",), tokens_a_day=20))
    wait_until(lambda: get(keyed.client, "/v1/models", secret).status_code == 200, "the new key")
    client = keyed.client.with_options(api_key=secret)
    usage = ask(client, max_tokens=8).usage
    assert usage.total_tokens > 20
    refused = get(keyed.client, "/v1/models", secret)
    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert int(refused.headers["retry-after"]) > 0
    assert refused.headers["x-ratelimit-remaining-tokens"] == "0"


def test_a_server_that_answers_is_ready(client: OpenAI) -> None:
    answer = get(client, "/ready")
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "version": "v0001", "reasons": []}


def test_damaged_keys_and_a_missing_engine_are_reasons_not_to_be_ready(
    own_workspace: Workspace, tiny_model: Path
) -> None:
    engine = make_engine(tiny_model)
    with serving(own_workspace, engine) as client:
        (own_workspace.folder / "keys.json").write_text("{")
        wait_until(lambda: get(client, "/ready").status_code == 503, "the look at the keys")
        engine.unavailable = "It is being started again."
        reasons = get(client, "/ready").json()["reasons"]
        assert "It is being started again." in reasons[0]
        assert "keys is damaged" in reasons[1]


def test_a_release_that_cannot_be_served_leaves_the_server_ready(
    own_workspace: Workspace, tiny_model: Path
) -> None:
    with serving(own_workspace, make_engine(tiny_model)) as client:
        (own_workspace.versions / "v0002/adapter/adapter_model.safetensors").unlink()
        releases.promote(own_workspace.releases, "v0002", "test")
        wait_until(lambda: health(client)["released"] == "v0002", "the look at the release")
        assert get(client, "/ready").status_code == 200
        assert parsed(get(client, "/metrics").text)["release_served{}"] == 0


@pytest.mark.slow
def test_an_engine_of_which_nothing_comes_is_not_ready(
    own_workspace: Workspace, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_factory.serving.readiness.STALLED_SECONDS", 0.05)
    engine = HeldEngine(tiny_model)
    with serving(own_workspace, engine) as client:
        assert get(client, "/ready").status_code == 200
        chunks = ask(client, stream=True)
        next(chunks)
        wait_until(lambda: get(client, "/ready").status_code == 503, "the end of patience")
        assert "nothing has come" in get(client, "/ready").json()["reasons"][0]
        engine.gate.set()
        list(chunks)
        wait_until(lambda: get(client, "/ready").status_code == 200, "the answer's end")
    assert STALLED_SECONDS > 60


@pytest.mark.slow
def test_numbers_of_a_running_server(own_workspace: Workspace, tiny_model: Path) -> None:
    with serving(own_workspace, make_engine(tiny_model)) as client:
        usage = ask(client, max_tokens=5).usage
        stream(client, max_tokens=3)
        get(client, "/v1/models/v0001")
        get(client, "/v1/models/" + "x" * 50)
        get(client, "/nothing/here")
        seen = parsed(get(client, "/metrics").text)
    asked = "requests_total{route=/v1/chat/completions,status=200,version=v0001}"
    assert seen[asked] == 2
    assert seen["requests_total{route=/v1/models/{name},status=200,version=}"] == 1
    assert seen["requests_total{route=/v1/models/{name},status=404,version=}"] == 1
    assert seen["requests_total{route=other,status=404,version=}"] == 1
    assert seen["prompt_tokens_total{version=v0001}"] == 2 * usage.prompt_tokens
    assert seen["completion_tokens_total{version=v0001}"] == 8
    assert seen["first_token_seconds_count{version=v0001}"] == 2
    assert seen["alias_info{alias=production,version=v0001}"] == 1
    assert seen["running_requests{}"] == seen["waiting_requests{}"] == 0
    assert seen["loaded_versions{}"] >= 2
    assert seen["ready{}"] == seen["release_served{}"] == 1
    assert seen["last_round_info{verdict=none,version=v0002}"] == 1
    assert seen["last_round_timestamp_seconds{}"] > 1.6e9


def test_every_route_is_described_with_its_answers_and_errors(
    workspace: Workspace, tiny_model: Path
) -> None:
    app = create_app(workspace, ServingSettings(), make_engine(tiny_model))
    described = description.describe(app)
    paths = {name.split()[1] for name in app.state.routes}
    assert described["paths"].keys() == paths
    for path in paths - description.TEXTS.keys() - {"/openapi.json"}:
        assert path in description.RESPONSES, path
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert "422" not in operation["responses"]
            assert {"200", "400", "503"} <= operation["responses"].keys()
            assert ("security" in operation) == (path not in OPEN_PATHS)


def test_the_description_loads_nothing_from_elsewhere(keyed: Any) -> None:
    text = get(keyed.client, "/openapi.json", keyed.keys["chat"]).text
    assert "http://" not in text
    assert "https://" not in text
    for path in ("/docs", "/redoc"):
        assert get(keyed.client, path, keyed.keys["chat"]).status_code == 404
