"""`llama-factory canary` as an operator uses it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_factory.cli.app import app
from llama_factory.core.errors import ConfigError, VersionError
from llama_factory.core.records import append_records
from llama_factory.serving import canary_store
from llama_factory.serving.canary import CanarySettings, Judged, News
from llama_factory.serving.shadow_report import file_of
from llama_factory.versions import releases
from llama_factory.versions.workspace import Workspace
from tests.tiny import make_workspace, publish_version


@pytest.fixture
def bot(tmp_path: Path, tiny_model: Path) -> Workspace:
    workspace = make_workspace(tmp_path / "my-bot", tiny_model)
    for seed in (1, 2):
        publish_version(workspace, tiny_model, marker_seed=seed)
    releases.promote(workspace.releases, "v0001", "test")
    return workspace


def run(bot: Workspace, *args: object) -> str:
    words = ["canary", str(bot.folder), *map(str, args)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def observe(bot: Workspace, num: int, every: int = 0) -> None:
    """So many conversations of both; of the candidate's every n-th has an error."""
    standing = releases.read(bot.releases).standing
    assert standing
    judged = [
        Judged(arm, {"errors": bool(every) and arm == "candidate" and not n % every})
        for n in range(num)
        for arm in ("production", "candidate")
    ]
    canary_store.advance(bot, CanarySettings(), News(standing, tuple(judged), seconds=1800))


def test_a_canary_is_begun_shown_and_taken_back(bot: Workspace) -> None:
    assert "No canary ran here" in run(bot)
    assert "v0002 is the candidate" in run(bot, "--start", "v0002", "--fraction", 0.25)
    assert "begins once a server runs" in run(bot, "--status")
    canary_store.advance(bot, CanarySettings())
    observe(bot, 60, every=20)
    shown = run(bot)
    assert "running: v0002 beside v0001, 25 % of callers" in shown
    assert "3 of 60 (5.0 %)" in shown
    assert "0.50 of 72 hours" in shown
    assert "more conversations of the candidate" in shown
    append_records(file_of(bot, "v0002"), [{"day": "2026-01-01", "cost": 9, "skipped": "failed"}])
    assert "no answers compared; not compared: 1 failed" in run(bot)
    assert "v0002 is taken back" in run(bot, "--abort")
    assert "aborted" in run(bot)
    assert "candidate" not in releases.read(bot.releases).aliases


def test_programs_get_json(bot: Workspace) -> None:
    assert json.loads(run(bot, "--json"))["state"] == "none"
    assert json.loads(run(bot, "--start", "v0002", "--json")) == {"started": "v0002"}
    canary_store.advance(bot, CanarySettings())
    observe(bot, 60)
    status = json.loads(run(bot, "--json"))
    kinds = {each["kind"]: each for each in status["kinds"]}
    assert kinds["errors"]["candidate"] == [60, 0]
    assert kinds["errors"]["difference"]["low"] < 0 < kinds["errors"]["difference"]["high"]
    assert (status["state"], status["threshold"]) == ("running", 20)
    assert json.loads(run(bot, "--abort", "--json")) == {"aborted": "v0002"}


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (["--start", "v0009"], VersionError, "v0009"),
        (["--start", "v0001"], VersionError, "nothing to try"),
        (["--abort"], VersionError, "no candidate"),
        (["--start", "v0002", "--fraction", "1.5"], ConfigError, "between 0 and 1"),
        (["--fraction", "0.5"], ConfigError, "together with --start"),
        (["--abort", "--status"], ConfigError, "give one of them"),
    ],
)
def test_what_cannot_be_done_is_said_with_the_reason(
    bot: Workspace, args: list[str], error: type[Exception], message: str
) -> None:
    result = CliRunner().invoke(app, ["canary", str(bot.folder), *args])
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
