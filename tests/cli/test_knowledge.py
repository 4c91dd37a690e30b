"""`llama-factory knowledge`: add, search, status, evaluate, propose."""

import json

import pytest
from typer.testing import CliRunner

from llama_factory.cli.app import app
from llama_factory.core.errors import ConfigError, DataError
from llama_factory.versions import store
from tests.knowledge.books import SHEET


@pytest.fixture
def bot(tmp_path):
    return store.create_workspace(tmp_path / "bot", "smollm2", "").folder


@pytest.fixture
def lamp(tmp_path):
    path = tmp_path / "lamp.md"
    path.write_text(SHEET, encoding="utf-8")
    return path


def run(bot, *words):
    done = CliRunner().invoke(app, ["knowledge", str(bot), *map(str, words)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_documents_are_added_searched_and_listed(bot, lamp):
    added = json.loads(run(bot, "add", lamp, "--json"))
    assert added == {"added": ["lamp.md"], "read": ["lamp.md"], "left_out": {}}
    (found, *_) = json.loads(run(bot, "search", "how long is the warranty", "--json"))
    assert found["file"] == "lamp.md"
    assert found["heading"] == "Lamp L7 > Warranty"
    assert "31 months" in run(bot, "search", "warranty")
    assert "Nothing fits." in run(bot, "search", "capital of France")
    status = json.loads(run(bot, "status", "--json"))
    assert status["files"][0] | {"bytes": 0} == {
        **{"file": "lamp.md", "bytes": 0, "passages": 2, "left_out": None, "note": None}
    }
    assert "1 documents, 2 passages" in run(bot)


def test_folders_are_added_without_what_is_no_document(bot, tmp_path):
    folder = tmp_path / "handbook"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.txt").write_text("one")
    (folder / ".hidden.txt").write_text("two")
    (folder / "tool.exe").write_text("three")
    (folder / "link.txt").symlink_to("/etc/passwd")
    assert json.loads(run(bot, "add", folder, "--json"))["added"] == ["handbook/deep/a.txt"]


def test_a_wrong_file_adds_nothing(bot, lamp, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        run(bot, "add", lamp, tmp_path / "none.md")
    strange = tmp_path / "a.exe"
    strange.write_text("x")
    with pytest.raises(DataError, match=r"'\.exe' are not read"):
        run(bot, "add", strange)
    assert not (bot / "knowledge").exists()
    with pytest.raises(DataError, match="there are no documents"):
        run(bot, "search", "warranty")
    with pytest.raises(ConfigError, match="name files or folders"):
        run(bot, "add")
    with pytest.raises(ConfigError, match="give a question"):
        run(bot, "search")


def test_recall_is_measured_without_a_model(bot, lamp, tmp_path):
    run(bot, "add", lamp)
    questions = tmp_path / "q.jsonl"
    rows = [
        {"question": "How long is the warranty?", "file": "lamp.md", "phrase": "31 months"},
        {"question": "Are returns free?", "file": "lamp.md", "phrase": "within 15 days"},
        {"question": "Capital of France?"},
    ]
    questions.write_text("\n".join(map(json.dumps, rows)))
    words = json.loads(run(bot, "evaluate", questions, "--no-model", "--json"))["recall"]["words"]
    assert words["recall"] == 0.5
    assert words["missed"] == ["Are returns free?"]
    assert words["nothing_found_rightly"] == words["unanswerable"] == 1
    assert "words: 50.0 % of 2" in run(bot, "evaluate", questions, "--no-model")
    questions.write_text('{"question": "a", "fiel": "b"}')
    with pytest.raises(DataError, match="q.jsonl:1: 'fiel' is none of"):
        run(bot, "evaluate", questions)


def test_nothing_was_asked_often_in_a_new_workspace(bot):
    assert json.loads(run(bot, "propose", "--json")) == []
