"""The whole job in one command, on a tiny model; what it learns is for `make demo` to show."""

import pytest

from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace
from tests.cli.test_cli import command
from tests.tiny import make_tiny_model


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    model = make_tiny_model(folder / "tiny")
    done = command("demo", "bot", "--model", model, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, model, done.stdout


def test_every_step_is_shown_as_the_command_that_does_it(shown):
    _, model, said = shown
    steps = [line for line in said.splitlines() if line.startswith("$ ")]
    assert steps == [
        f"$ llama-factory init bot --model {model}",
        "$ llama-factory learn bot",
        "$ llama-factory learn bot",
        "$ llama-factory versions bot",
        "$ llama-factory show bot --picture bot/reports/forgetting.png",
        "$ llama-factory report bot",
        "$ llama-factory chat bot",
    ]
    assert "How many months of warranty" in said


def test_two_versions_a_page_and_pictures_are_there(shown):
    folder, _, _ = shown
    workspace = Workspace.open(folder / "bot")
    assert store.ids(workspace) == ["v0000", "v0001", "v0002"]
    assert list((folder / "bot/reports").glob("*.html"))


def test_a_demo_that_is_there_is_shown_again_without_teaching(shown):
    folder, model, _ = shown
    again = command("demo", "bot", "--model", model, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "init bot" not in again.stdout
    assert "Next: llama-factory serve bot" in again.stdout
