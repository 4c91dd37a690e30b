"""Locks with an owner: a dead one's is taken over, a living one's never."""

import json
import os
import socket
import threading
from dataclasses import asdict, replace

import pytest

from llama_factory.core.errors import VersionError
from llama_factory.core.ownership import (
    Owner,
    living_owner,
    owned,
    owner_file,
    read_owner,
)

ELSEWHERE = Owner(7, "elsewhere", "2026-11-30T10:00:00+00:00", "watching", 3)


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "x.lock"


def test_the_owner_names_itself_and_gives_signs_of_life(lock):
    assert living_owner(lock) is None
    with owned(lock, what="watching", beat_seconds=0.01):
        first = living_owner(lock)
        assert (first.pid, first.host, first.what) == (
            os.getpid(),
            socket.gethostname(),
            "watching",
        )
        while living_owner(lock).beat <= first.beat:
            pass
    assert living_owner(lock) is None
    assert not owner_file(lock).exists()


def test_the_second_one_is_told_who_has_it(lock, monkeypatch):
    monkeypatch.setattr("llama_factory.core.files.LOOK_SECONDS", 0.05)
    with owned(lock, what="watching"):
        text = rf"process {os.getpid()} is already watching \(on {socket.gethostname()}, since 2"
        with pytest.raises(VersionError, match=text), owned(lock, what="watching"):
            pass
        assert living_owner(lock) is not None


def test_what_a_killed_owner_left_is_taken_over(lock):
    mine = replace(ELSEWHERE, host=socket.gethostname())
    owner_file(lock).write_text(json.dumps(asdict(mine)))
    lock.touch()
    with owned(lock, what="watching"):
        assert read_owner(lock).pid == os.getpid()


def test_an_owner_elsewhere_that_shows_no_life_is_taken_over(lock):
    """As in a copy of a folder, with the lock of another machine's process in it."""
    owner_file(lock).write_text(json.dumps(asdict(ELSEWHERE)))
    with owned(lock, what="watching", beat_seconds=0.02):
        assert read_owner(lock).pid == os.getpid()


def test_an_owner_elsewhere_that_lives_keeps_its_lock(lock):
    """Where machines share a folder and not the locks of its files."""
    stop = threading.Event()

    def live():
        beat = 0
        while not stop.wait(0.005):
            beat += 1
            temporary = lock.with_name("beat")
            temporary.write_text(json.dumps(asdict(replace(ELSEWHERE, beat=beat))))
            temporary.replace(owner_file(lock))

    owner_file(lock).write_text(json.dumps(asdict(ELSEWHERE)))
    other = threading.Thread(target=live)
    other.start()
    try:
        text = "process 7 is already watching .on elsewhere"
        with pytest.raises(VersionError, match=text), owned(lock, what="x", beat_seconds=0.05):
            pass
        assert read_owner(lock).host == "elsewhere"
    finally:
        stop.set()
        other.join()


def test_a_full_disk_costs_no_lock(lock, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with owned(lock, what="watching", beat_seconds=0.01):
        assert lock.exists()
