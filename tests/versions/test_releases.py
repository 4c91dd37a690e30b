"""Aliases: where they point after every kind of move, and files that somebody damaged."""

import fcntl
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from llama_factory.core import files
from llama_factory.core.errors import VersionError
from llama_factory.versions import releases


@pytest.fixture
def path(tmp_path):
    return tmp_path / "releases.json"


def test_without_a_file_the_base_model_is_released_and_nothing_ever_moved(path):
    found = releases.read(path)
    assert found == releases.Releases({"production": "v0000"}, ())
    assert found.production == "v0000"
    assert not path.exists()


def test_every_move_names_the_version_before_and_is_written_down(path):
    assert releases.promote(path, "v0001", "first").aliases == {
        "production": "v0001",
        "previous": "v0000",
    }
    moved = releases.promote(path, "v0003", "second")
    assert moved.aliases == {"production": "v0003", "previous": "v0001"}
    assert [(each.why, each.aliases["production"]) for each in moved.history] == [
        ("first", "v0001"),
        ("second", "v0003"),
    ]
    assert releases.read(path) == moved
    assert files.read_json(path)["history"][0] == {
        "time": moved.history[0].time,
        "aliases": {"production": "v0001", "previous": "v0000"},
        "why": "first",
    }


def test_to_release_what_is_released_already_keeps_the_one_before(path):
    assert releases.promote(path, "v0000", "the base").aliases == {
        "production": "v0000",
        "previous": "v0000",
    }
    releases.promote(path, "v0001", "one")
    releases.promote(path, "v0002", "two")
    again = releases.promote(path, "v0002", "again")
    assert again.aliases == {"production": "v0002", "previous": "v0001"}
    assert [each.why for each in again.history] == ["the base", "one", "two", "again"]


def test_a_version_is_released_if_its_parent_still_is(path):
    assert releases.promote_child(path, "v0001", parent="v0000", why="passed") is True
    found = releases.read(path)
    assert found.aliases == {"production": "v0001", "previous": "v0000"}
    assert [each.why for each in found.history] == ["passed"]


def test_a_version_is_held_if_another_one_was_released_meanwhile(path):
    releases.promote(path, "v0001", "by hand")
    assert releases.promote_child(path, "v0002", parent="v0000", why="passed") is False
    found = releases.read(path)
    assert found.aliases == {"production": "v0001", "previous": "v0000", "candidate": "v0002"}
    assert [each.why for each in found.history] == [
        "by hand",
        "held: it was made from v0000, and v0001 was released meanwhile. Promote it by hand if it "
        "should answer all the same",
    ]


def test_the_candidate_is_never_what_is_released(path):
    held = releases.hold(path, "v0002", "refused")
    assert held.aliases == {"production": "v0000", "candidate": "v0002"}
    assert [each.why for each in held.history] == ["refused"]
    assert releases.read(path) == held
    assert releases.promote(path, "v0001", "another").aliases["candidate"] == "v0002"
    assert "candidate" not in releases.promote(path, "v0002", "by hand").aliases
    assert "candidate" not in releases.hold(path, "v0002", "refused again").aliases


def test_times_are_utc_to_the_second(path):
    before = datetime.now(UTC) - timedelta(seconds=1)
    (move,) = releases.promote(path, "v0001", "now").history
    told = datetime.fromisoformat(move.time)
    assert before <= told <= datetime.now(UTC)
    assert (told.microsecond, told.utcoffset()) == (0, timedelta(0))


MOVE = {"time": "2026-01-01T00:00:00+00:00", "aliases": {"production": "v0001"}, "why": "so"}
GOOD = {"aliases": {"production": "v0001", "previous": "v0000"}, "history": []}


def test_ids_may_have_more_than_four_digits(path):
    files.write_json(path, GOOD | {"aliases": {"production": "v12345"}})
    assert releases.read(path).production == "v12345"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("{", "line 1 column 2"),
        ("", "line 1 column 1"),
        ("[]", "list indices"),
        ("null", "not subscriptable"),
        (GOOD | {"history": None}, "not iterable"),
        (GOOD | {"history": [{"time": "", "aliases": {"production": "v0001"}}]}, "argument: 'why'"),
        (GOOD | {"history": [3]}, "not subscriptable"),
        (GOOD | {"history": [MOVE | {"by": "me"}]}, "unexpected keyword argument 'by'"),
        (GOOD | {"history": [MOVE | {"aliases": ["v0001"]}]}, "no version is 'production'"),
        (
            GOOD | {"history": [MOVE, MOVE | {"aliases": {"production": "x"}}]},
            "'production' is 'x'",
        ),
        ({"aliases": {}, "history": []}, "no version is 'production'"),
        ({"aliases": {"previous": "v0001"}, "history": []}, "no version is 'production'"),
        ({"history": []}, "aliases"),
        ({"aliases": {"production": "v0001"}}, "history"),
        (GOOD | {"aliases": ["production"]}, "items"),
        (GOOD | {"aliases": {"production": "v001"}}, "'production' is 'v001', which is no version"),
        (GOOD | {"aliases": {"production": "v0001/.."}}, r"'production' is 'v0001/\.\.', which"),
        (
            GOOD | {"aliases": {"production": "v0001", "candidate": 7}},
            "'candidate' is 7, which is no version",
        ),
    ],
)
def test_a_damaged_file_is_told_with_the_reason_and_is_never_overwritten(path, damage, reason):
    text = damage if isinstance(damage, str) else json.dumps(damage)
    path.write_text(text)
    tools = (
        lambda: releases.read(path),
        lambda: releases.promote(path, "v0002", "by hand"),
        lambda: releases.hold(path, "v0002", "refused"),
        lambda: releases.promote_child(path, "v0002", parent="v0000", why="passed"),
    )
    for tool in tools:
        with pytest.raises(VersionError, match=reason) as caught:
            tool()
        assert str(caught.value).startswith(f"{path} is damaged (")
        assert str(caught.value).endswith(
            "). Restore it from a backup; or delete it, and the base model is released until you "
            "promote a version."
        )
    assert path.read_text() == text


def test_who_moves_a_release_at_the_same_time_is_told(path, monkeypatch):
    monkeypatch.setattr(releases, "LOCK_SECONDS", 0)
    monkeypatch.setattr(files, "LOOK_SECONDS", 0)
    tools = (
        lambda: releases.promote(path, "v0002", "by hand"),
        lambda: releases.hold(path, "v0002", "refused"),
        lambda: releases.promote_child(path, "v0002", parent="v0000", why="passed"),
    )
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for tool in tools:
            with pytest.raises(VersionError, match="another process is already moving a release"):
                tool()
    assert not path.exists()


def test_a_candidate_is_promoted_or_withdrawn_only_where_it_stands_as_it_was_compared(
    tmp_path: Path,
) -> None:
    path = tmp_path / "releases.json"
    releases.promote(path, "v0001", "test")
    assert releases.read(path).standing is None
    releases.hold(path, "v0002", "test")
    compared = releases.read(path).standing
    assert compared == releases.Standing("v0001", "v0002", 2)
    releases.promote(path, "v0003", "by hand")
    releases.promote(path, "v0001", "and back")
    moved = releases.read(path)
    assert moved.standing == releases.Standing("v0001", "v0002", 4)
    assert not releases.promote_candidate(path, compared, "late")
    assert not releases.withdraw_candidate(path, compared, "late")
    assert releases.read(path) == moved
    assert releases.promote_candidate(path, moved.standing, "better")
    assert releases.read(path).aliases == {"production": "v0002", "previous": "v0001"}


def test_moves_that_touch_neither_of_the_two_leave_what_was_compared(tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    releases.promote(path, "v0001", "test")
    releases.hold(path, "v0002", "test")
    compared = releases.read(path).standing
    releases.promote(path, "v0001", "again")
    assert releases.read(path).standing == compared
    assert releases.withdraw_candidate(path, compared, "worse")
    assert "candidate" not in releases.read(path).aliases


def test_a_child_is_held_only_beside_its_parent(tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    releases.promote(path, "v0001", "test")
    assert not releases.hold_child(path, "v0003", parent="v0002", why="test")
    assert "candidate" not in releases.read(path).aliases
    assert releases.hold_child(path, "v0003", parent="v0001", why="test")
    assert releases.read(path).aliases["candidate"] == "v0003"
