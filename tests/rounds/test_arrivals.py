"""Which files of an inbox count: slow writers, renames, links, strange names, folders that go."""

import os

import pytest

from llama_factory.core.files import sha256
from llama_factory.data.sources import inbox as inboxes
from llama_factory.rounds.arrivals import InboxWatch


class Clock:
    """Both clocks of a machine; the one on the wall can be set."""

    def __init__(self):
        self.steady, self.wall = 100.0, 1_000_000.0

    def wait(self, seconds):
        self.steady += seconds
        self.wall += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def watch(inbox, clock):
    return InboxWatch(inbox, 5.0, steady=lambda: clock.steady, wall=lambda: clock.wall)


def write(path, text, at):
    path.write_text(text)
    os.utime(path, (at, at))


def test_a_file_counts_when_it_stood_still(inbox, watch, clock):
    write(inbox / "a.jsonl", "1", clock.wall)
    first = watch.look()
    assert (first.files, first.growing, first.settles_in) == ({}, ("a.jsonl",), 5.0)
    clock.wait(4)
    write(inbox / "a.jsonl", "12", clock.wall)
    assert watch.look().settles_in == 5.0
    clock.wait(5)
    assert watch.look().files == {"a.jsonl": sha256(inbox / "a.jsonl")}


def test_an_old_file_counts_at_once(inbox, watch, clock):
    write(inbox / "a.jsonl", "1", clock.wall - 60)
    assert list(watch.look().files) == ["a.jsonl"]


def test_a_file_that_was_renamed_into_place_counts_at_once(inbox, watch, clock):
    for hidden in ("b.jsonl.part", ".c.jsonl", "d.JSONL.TMP"):
        write(inbox / hidden, hidden, clock.wall)
    assert (watch.look().files, watch.look().growing) == ({}, ())
    (inbox / "b.jsonl.part").rename(inbox / "b.jsonl")
    (inbox / ".c.jsonl").rename(inbox / "c.jsonl")
    assert list(watch.look().files) == ["b.jsonl", "c.jsonl"]


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_is_set_makes_no_file_wait_for_long(inbox, watch, clock, jump):
    write(inbox / "a.jsonl", "1", clock.wall)
    watch.look()
    clock.wall += jump
    clock.wait(5)
    assert list(watch.look().files) == ["a.jsonl"]


def test_the_same_content_is_the_same_file_under_any_name(inbox, watch, clock):
    write(inbox / "a.jsonl", "same", 1)
    write(inbox / "b.jsonl", "same", 2)
    assert len(set(watch.look().files.values())) == 1
    write(inbox / "a.jsonl", "new", 3)
    assert len(set(watch.look().files.values())) == 2


def test_links_out_of_the_inbox_and_circles_are_refused(inbox, watch, tmp_path):
    (tmp_path / "secret.jsonl").write_text("{}")
    (inbox / "out.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (inbox / "round.jsonl").symlink_to(inbox / "round.jsonl")
    (inbox / "folder").mkdir()
    view = watch.look()
    assert view.files == {}
    assert {each.file: each.reason for each in view.refused} == {
        "folder": "folders are not read; move its files up.",
        "out.jsonl": "a link that leaves the inbox is not followed.",
        "round.jsonl": "a link that leads in a circle.",
    }


def test_strange_names_are_one_line_and_show_what_is_in_them(inbox, watch):
    for name in ("a\nb.jsonl", "txt.‮lnosj", "文件 1.jsonl"):
        (inbox / name).mkdir()
    assert {each.file for each in watch.look().refused} == {
        r"a\nb.jsonl",
        r"txt.\u202elnosj",
        "文件 1.jsonl",
    }


def test_a_name_that_is_no_text_is_refused(inbox, watch):
    (inbox / os.fsdecode(b"a\xff.jsonl")).write_bytes(b"{}")
    (refused,) = watch.look().refused
    assert refused.file == r"a\udcff.jsonl"
    assert refused.reason == "its name is no UTF-8; rename it."
    assert inboxes.arrived(inbox)[0] == []


def test_a_folder_that_goes_away_and_comes_back(inbox, watch, clock):
    write(inbox / "a.jsonl", "1", 1)
    inbox.rename(inbox.with_name("away"))
    view = watch.look()
    assert (view.files, view.problem) == ({}, f"{inbox}: No such file or directory")
    inbox.with_name("away").rename(inbox)
    assert list(watch.look().files) == ["a.jsonl"]


@pytest.mark.slow
def test_each_file_is_hashed_once_while_it_stays_as_it_is(inbox, watch, monkeypatch):
    hashed = []

    def count(path):
        hashed.append(path.name)
        return path.name

    monkeypatch.setattr("llama_factory.core.files.sha256", count)
    for number in range(10_000):
        write(inbox / f"{number}.jsonl", "", 1)
    assert len(watch.look().files) == len(watch.look().files) == 10_000
    assert len(hashed) == 10_000
