"""Old versions: what an alias, its lineage or memory needs stays; the rest goes whole."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from llama_factory.core.ownership import owned
from llama_factory.core.times import now
from llama_factory.versions import notes, releases, store
from llama_factory.versions.gc import KeepSettings, collect
from llama_factory.versions.version import ModelVersion

NOW = datetime.now(UTC) + timedelta(days=400, hours=12)


@pytest.fixture
def workspace(tmp_path):
    return store.create_workspace(tmp_path / "bot", "tiny", "model: {base_model: tiny}\n")


def make(workspace, parent):
    """A version that was made from another one."""
    folder = workspace.building
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"evaluation": {}}))
    version = ModelVersion(store.next_id(workspace), parent, now(), "tiny", "", "", 1, folder, {})
    return store.publish(workspace, version).id


@pytest.fixture
def grown(workspace):
    """v1-v2-v3 released, v4 a refused child of v2, v5 a refused child of v3, v6 the candidate."""
    for parent in ("v0000", "v0001", "v0002", "v0002", "v0003", "v0003"):
        make(workspace, parent)
    releases.promote(workspace.releases, "v0002", "by hand")
    releases.promote(workspace.releases, "v0003", "by hand")
    releases.hold(workspace.releases, "v0006", "held")
    return workspace


def gone(workspace, now=NOW, **keep):
    return [each.id for each in collect(workspace, KeepSettings(**keep), now=now)]


def test_only_what_nothing_needs_is_removed(grown):
    assert gone(grown, versions=1) == ["v0004"]
    assert store.ids(grown) == ["v0000", "v0001", "v0002", "v0003", "v0005", "v0006"]
    assert gone(grown, versions=1) == []
    assert store.next_id(grown) == "v0007"


def test_the_newest_and_the_young_stay(grown):
    assert gone(grown, versions=3) == []
    assert gone(grown, days=500) == []
    assert gone(grown, versions=1, days=500) == []
    assert gone(grown, days=300) == ["v0004"]


def test_without_limits_everything_is_kept(grown):
    assert gone(grown) == []


def test_a_clock_that_was_set_back_removes_nothing(grown):
    assert gone(grown, datetime(2000, 1, 1, tzinfo=UTC), days=1) == []


def test_the_parent_of_a_round_in_progress_stays(grown):
    grown.building.mkdir()
    (grown.building / store.PLAN).write_text('{"parent": "v0004"}')
    assert gone(grown, versions=1) == []


def test_what_a_person_tagged_stays(grown):
    notes.set_tag(grown, "the-funny-one", "v0004")
    assert gone(grown, versions=1) == []


def test_what_cannot_be_read_stays(grown):
    (grown.versions / "v0004" / "manifest.json").write_text("{")
    assert gone(grown, versions=1) == []


def test_a_rollback_makes_the_version_before_it_a_side_branch(grown):
    releases.promote(grown.releases, "v0001", "rolled back")
    releases.promote(grown.releases, "v0001", "rolled back")
    current = releases.read(grown.releases)
    standing = current.standing
    releases.withdraw_candidate(grown.releases, standing, "by hand")
    needed = {"v0000", "v0001", "v0002", "v0003"}  # the released one, `previous` and its lineage
    assert set(gone(grown, versions=1)).isdisjoint(needed)


def test_a_look_removes_nothing_and_says_why(grown):
    (found,) = collect(grown, KeepSettings(versions=1), is_dry=True, now=NOW)
    assert (found.id, found.why) == (
        "v0004",
        "no alias, tag or lineage names it, and it is 400 days old",
    )
    assert found.bytes > 0
    assert "v0004" in store.ids(grown)


def test_what_a_crash_left_of_a_removal_goes_with_the_next(grown):
    (grown.versions / ".removed-v0009").mkdir()
    collect(grown, KeepSettings(versions=1), now=NOW)
    assert not list(grown.versions.glob(".removed-*"))


def test_nothing_is_removed_beside_a_round(grown, monkeypatch):
    monkeypatch.setattr("llama_factory.core.files.LOOK_SECONDS", 0.05)
    with owned(grown.lock, what="running a round here"):
        with pytest.raises(Exception, match="already running a round here"):
            gone(grown, versions=1)
        assert "v0004" in store.ids(grown)
