import json
import shutil
import threading
import time

from llama_factory.core import files
from llama_factory.data.reading import Refused
from llama_factory.data.sources import inbox


def test_a_file_that_still_grows_waits(tmp_path):
    growing = tmp_path / "big.jsonl"
    (tmp_path / "done.jsonl").write_text("{}\n")
    stop = threading.Event()

    def write():
        with growing.open("a") as file:
            while not stop.is_set():
                file.write("{}\n")
                file.flush()
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    while not growing.exists():
        time.sleep(0.01)
    paths, notes = inbox.arrived(tmp_path)
    stop.set()
    writer.join()
    assert [path.name for path in paths] == ["done.jsonl"]
    assert "still growing" in notes[0].reason


def test_links_that_leave_and_folders_and_hidden_files_are_not_read(tmp_path):
    (tmp_path / "secret.jsonl").write_text("{}\n")
    box = tmp_path / "inbox"
    box.mkdir()
    (box / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (box / "folder").mkdir()
    (box / ".hidden.jsonl").write_text("{}\n")
    paths, notes = inbox.arrived(box)
    assert paths == []
    assert {note.file for note in notes} == {"link.jsonl", "folder"}


def test_quarantine_keeps_rows_and_files_with_their_reasons_and_can_be_repeated(tmp_path):
    copies, prison = tmp_path / "copies", tmp_path / "quarantine"
    copies.mkdir()
    (copies / "bad.json").write_text("[")
    refused = [Refused("bad.json", 0, "broken"), Refused("faq.jsonl", 7, "empty", '{"a": ""}')]
    for _ in range(2):
        inbox.quarantine(refused, copies, prison)
    assert (prison / "bad.json").read_text() == "["
    assert (prison / "bad.json.reason.txt").read_text() == "broken\n"
    (row,) = files.read_jsonl(prison / "faq.jsonl.rows.jsonl")
    assert row == {"line": 7, "reason": "empty", "row": json.dumps({"a": ""})}


def test_what_lies_in_quarantine_stays_when_a_file_of_the_same_name_is_refused(tmp_path):
    copies, prison = tmp_path / "copies", tmp_path / "quarantine"
    copies.mkdir()
    for text in ("[", "{"):
        (copies / "bad.tar.gz").write_text(text)
        row = Refused("faq.jsonl", 7, "empty", text)
        inbox.quarantine([Refused("bad.tar.gz", 0, "broken"), row], copies, prison)
    found = {path.name: path.read_text() for path in prison.glob("bad*gz")}
    assert found == {"bad.tar.gz": "[", "bad-2.tar.gz": "{"}
    assert [row["row"] for row in files.read_jsonl(prison / "faq.jsonl.rows.jsonl")] == ["[", "{"]


def test_only_unchanged_files_are_cleared(tmp_path):
    box, kept, parked = tmp_path / "box", tmp_path / "kept", tmp_path / "parked"
    box.mkdir()
    for name in ("same.jsonl", "changed.jsonl"):
        (box / name).write_text("{}\n")
    taken, _ = inbox.take_copies(sorted(box.iterdir()), kept)
    (box / "changed.jsonl").write_text("{}\n{}\n")
    inbox.clear(box, taken, parked)
    assert [p.name for p in box.iterdir()] == ["changed.jsonl"]
    assert sorted(p.name for p in kept.iterdir()) == ["changed.jsonl", "same.jsonl"]
    assert (kept / "changed.jsonl").read_text() == "{}\n"


def test_what_is_hashed_is_what_was_copied(tmp_path):
    path = tmp_path / "faq.jsonl"
    path.write_text("{}\n")
    taken, _ = inbox.take_copies([path], tmp_path / "kept")
    path.write_text("another\n")
    assert taken == {"faq.jsonl": files.sha256(tmp_path / "kept/faq.jsonl")}


def test_a_file_that_changes_while_it_is_copied_or_goes_away_waits(tmp_path, monkeypatch):
    path = tmp_path / "faq.jsonl"
    path.write_text("{}\n")
    real = shutil.copy2

    def slow(source, target):
        real(source, target)
        with path.open("a") as file:
            file.write("{}\n")

    monkeypatch.setattr(shutil, "copy2", slow)
    gone = tmp_path / "gone.jsonl"
    taken, waiting = inbox.take_copies([path], tmp_path / "kept")
    monkeypatch.undo()
    none, missing = inbox.take_copies([gone], tmp_path / "kept")
    assert taken == none == {}
    assert [each.file for each in [*waiting, *missing]] == ["faq.jsonl", "gone.jsonl"]
    assert list((tmp_path / "kept").iterdir()) == []


def test_rows_that_a_program_writes_after_its_file_was_cleared_come_back(tmp_path):
    box, parked = tmp_path / "box", tmp_path / "parked"
    box.mkdir()
    for name in ("faq.jsonl", "done.jsonl"):
        (box / name).write_text("one\n")
    with (box / "faq.jsonl").open("a") as writer:
        taken, _ = inbox.take_copies(sorted(box.iterdir()), tmp_path / "kept")
        inbox.clear(box, taken, parked)
        assert list(box.iterdir()) == []
        writer.write("two\n")
    (box / "faq.jsonl").write_text("a new file of this name\n")
    assert inbox.settle(box, parked) == []
    (box / "faq.jsonl").unlink()
    assert inbox.settle(box, parked) == ["faq.jsonl"]
    assert (box / "faq.jsonl").read_text() == "one\ntwo\n"
    assert list(parked.iterdir()) == []
