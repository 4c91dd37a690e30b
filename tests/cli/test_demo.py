"""The whole job in one command, on a tiny model; what it learns is for `make demo` to show."""

import pytest

from llama_factory.versions import store
from llama_factory.versions.workspace import Workspace
from tests.cli.taught import command
from tests.cli.test_reports import is_drawn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shown(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("demo")
    done = command("demo", "bot", "--model", tiny_model, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, tiny_model, done.stdout


def test_every_step_is_shown_as_the_command_that_does_it(shown):
    _, model, said = shown
    steps = [line for line in said.splitlines() if line.startswith("$ ")]
    assert steps == [
        f"$ llama-factory init bot --model {model}",
        "$ llama-factory learn bot",
        "$ llama-factory learn bot",
        "$ llama-factory versions bot",
        "$ llama-factory chat bot",
        "$ llama-factory show bot --picture bot/reports/forgetting.png"
        " --curves bot/reports/curves.png",
        "$ llama-factory report bot",
    ]
    assert "How many months of warranty" in said


def test_two_versions_a_page_and_pictures_are_there(shown):
    folder, _, _ = shown
    workspace = Workspace.open(folder / "bot")
    assert store.ids(workspace) == ["v0000", "v0001", "v0002"]
    assert list((folder / "bot/reports").glob("*.html"))
    assert is_drawn(folder / "bot/reports/forgetting.png")
    assert is_drawn(folder / "bot/reports/curves.png")


def test_it_ends_with_the_heat_map_the_curves_and_the_page(shown):
    folder, _, said = shown
    *_, title, heat_map, curves, page, _, browser = said.splitlines()
    assert title == "What it learned and what it kept:"
    assert heat_map.split() == ["heat", "map", "bot/reports/forgetting.png"]
    assert curves.split() == ["curves", "bot/reports/curves.png"]
    assert browser == "In a browser: llama-factory web bot, then http://127.0.0.1:8000/"
    kind, path = page.split()
    assert kind == "page"
    content = (folder / path).read_text(encoding="utf-8")
    assert content.count("data:image/png;base64,") == 2 * 2  # both pictures of each metric
    assert "v0001 products" in content


def test_a_demo_that_is_there_is_shown_again_without_teaching(shown):
    folder, model, _ = shown
    again = command("demo", "bot", "--model", model, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "init bot" not in again.stdout
    assert "Next: llama-factory serve bot" in again.stdout
