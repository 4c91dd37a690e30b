"""`llama-factory keys` as an operator uses it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_factory.cli.app import app
from llama_factory.core.errors import FactoryError
from llama_factory.serving.keys import KeyRing


@pytest.fixture
def bot(tmp_path: Path) -> Path:
    folder = tmp_path / "my-bot"
    folder.mkdir()
    (folder / "factory.yaml").write_text("model: {base_model: smollm2}\n")
    return folder


def run(*args: object) -> str:
    result = CliRunner().invoke(app, ["keys", *map(str, args)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_key_is_shown_once_and_gets_in(bot: Path) -> None:
    options = ["--name", "web", "--scopes", "chat,feedback", "--rate", "60/min"]
    secret = run(bot, "create", *options, "--tokens-a-day", 1000).split()[0]
    owner = KeyRing(bot / "keys.json").owner(secret)
    assert owner
    assert (owner.name, owner.scopes) == ("web", ("chat", "feedback"))
    assert (owner.requests_a_minute, owner.tokens_a_day) == (60, 1000)
    assert secret not in run(bot)
    (listed,) = json.loads(run(bot, "list", "--json"))
    assert listed["name"] == "web"
    assert "sha256" not in listed


def test_a_revoked_key_is_listed_as_such(bot: Path) -> None:
    created = json.loads(run(bot, "create", "web", "--scopes", "admin", "--json"))
    assert created["scopes"] == ["admin"]
    assert "web is revoked" in run(bot, "revoke", "web")
    (listed,) = json.loads(run(bot, "--json"))
    assert listed["revoked"]
    assert KeyRing(bot / "keys.json").owner(created["key"]) is None


def test_the_file_is_the_one_of_the_settings(bot: Path) -> None:
    run(bot, "create", "web", "--set", "serving.keys=other.json")
    assert (bot / "other.json").exists()
    assert "There are no keys" in run(bot)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create"], "needs the name"),
        (["revoke"], "needs the name"),
        (["create", "a", "--name", "b"], "which key is meant"),
        (["create", "a", "--scopes", "chatt"], "Did you mean 'chat'"),
        (["create", "a", "--scopes", ","], "at least one"),
        (["create", "a", "--rate", "fast"], "no number of requests a minute"),
        (["create", "a", "--rate", "0"], "no number of requests a minute"),
        (["revoke", "a"], "no active key 'a'"),
    ],
)
def test_what_cannot_be_done_is_explained(bot: Path, words: list[str], message: str) -> None:
    with pytest.raises(FactoryError, match=message):
        CliRunner().invoke(app, ["keys", str(bot), *words], catch_exceptions=False)
