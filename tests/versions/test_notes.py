"""Notes, tags, checks and differences of versions, in Python and by command."""

import json
import os

import pytest
from typer.testing import CliRunner

from llama_factory import upkeep
from llama_factory.cli.app import app
from llama_factory.core.errors import VersionError
from llama_factory.versions import notes, releases, store
from tests.tiny import make_workspace
from tests.versions.test_store import add_version, question


@pytest.fixture
def bot(tmp_path):
    workspace = make_workspace(tmp_path / "bot", tmp_path / "model")
    add_version(workspace, held_out=[question("one?")])
    add_version(workspace, parent="v0001")
    releases.promote(workspace.releases, "v0002", "test")
    return workspace


def call(*words):
    return CliRunner().invoke(app, [os.fspath(word) for word in words])


def test_notes_are_kept_in_order_and_the_version_stays_as_it_is(bot):
    upkeep.note(bot, "production", "good on returns", "ann")
    upkeep.note(bot, "2", "不要再用", "李")
    assert [each.text for each in upkeep.note(bot, "v0002")] == ["good on returns", "不要再用"]
    assert upkeep.note(bot, "v0001") == ()
    store.get(bot, "v0002")  # its checksums are those of before
    shown = call("note", bot, "v0002")
    assert "ann: good on returns" in shown.output
    listed = json.loads(call("note", bot, "v0002", "--json").stdout)
    assert [each["who"] for each in listed] == ["ann", "李"]


def test_a_tag_is_a_name_of_one_version(bot):
    assert upkeep.tag(bot, "stable", "v0001") == "'stable' is v0001."
    assert store.get(bot, "stable").id == "v0001"
    upkeep.tag(bot, "stable", "production")
    assert notes.read(bot).tags_of("v0002") == ["stable"]
    upkeep.tag(bot, "stable", None)
    with pytest.raises(VersionError, match="no version 'stable'"):
        store.get(bot, "stable")
    with pytest.raises(VersionError, match="no version has the tag 'stable'. Tags: none"):
        upkeep.tag(bot, "stable", None)


@pytest.mark.parametrize("name", ["production", "v0001", "../x", "", "A", "x" * 41, "a\nb"])
def test_what_cannot_be_a_tag_is_refused(bot, name):
    with pytest.raises(VersionError, match="cannot be a tag"):
        upkeep.tag(bot, name, "v0001")


@pytest.mark.parametrize("text", [" \n", "x" * 10_001])
def test_an_empty_or_endless_note_is_refused(bot, text):
    with pytest.raises(VersionError, match="a note of"):
        upkeep.note(bot, "v0001", text)


@pytest.mark.parametrize("content", ["{", '{"notes": {}, "tags": {"x": "../../etc"}}', "[]"])
def test_damaged_notes_are_told_and_keep_nobody_from_the_versions(bot, content):
    (bot.folder / "notes.json").write_text(content)
    assert store.get(bot, "v0002").id == "v0002"
    with pytest.raises(VersionError, match=r"notes.json is damaged"):
        notes.read(bot)


def test_verify_finds_what_is_damaged_and_says_so_by_its_exit_code(bot):
    assert all(not each.problem for each in upkeep.verify(bot))
    assert call("verify", bot).exit_code == 0
    (bot.versions / "v0001/report.json").write_text("{}")
    wrong = {each.name: each.problem for each in upkeep.verify(bot) if each.problem}
    assert list(wrong) == ["v0001"]
    done = call("verify", bot, "--json")
    assert done.exit_code == 1
    assert [each["name"] for each in json.loads(done.stdout) if each["problem"]] == ["v0001"]
    assert call("verify", bot, "v0002").exit_code == 0
    assert "report.json is missing or was changed" in call("verify", bot, "v0001").output


def test_verify_tells_of_names_that_lead_nowhere(bot):
    upkeep.tag(bot, "old", "v0001")
    (bot.versions / "v0001").rename(bot.folder / "gone")
    problems = {each.name: each.problem for each in upkeep.verify(bot) if each.problem}
    assert "tag 'old' is on v0001, which is not there" in problems["notes.json"]
    assert "v0002" in problems  # its parent is gone


def test_what_two_versions_differ_in(bot):
    add_version(bot, parent="v0001")
    found = upkeep.diff(bot, "v0003")
    assert (found.before, found.after, found.common) == ("v0003", "v0002", "v0001")
    assert [each.version for each in found.only_after] == ["v0002"]
    assert "Both come from v0001." in call("diff", bot, "v0003", "v0002").output
    assert json.loads(call("diff", bot, "1", "--json").stdout)["common"] == "v0001"


def test_it_is_packed_and_taken_in_by_command(bot, tmp_path):
    done = call("pack", bot, "production", tmp_path / "bot.tar.zst")
    assert done.exit_code == 0, done.output
    assert "v0000, v0001, v0002" in done.output
    taken = call("unpack", tmp_path / "new", tmp_path / "bot.tar.zst", "--json")
    assert json.loads(taken.stdout)["added"] == ["v0001", "v0002"]
