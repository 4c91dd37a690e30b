import json
import threading
import time

from llama_factory.core import files
from llama_factory.data import inbox
from llama_factory.data.reading import Refused


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
    box, prison = tmp_path / "inbox", tmp_path / "quarantine"
    box.mkdir()
    (box / "bad.json").write_text("[")
    refused = [Refused("bad.json", 0, "broken"), Refused("faq.jsonl", 7, "empty", '{"a": ""}')]
    for _ in range(2):
        inbox.quarantine(refused, box, prison)
    assert not (box / "bad.json").exists()
    assert (prison / "bad.json").read_text() == "["
    assert (prison / "bad.json.reason.txt").read_text() == "broken\n"
    (row,) = files.read_jsonl(prison / "faq.jsonl.rows.jsonl")
    assert row == {"line": 7, "reason": "empty", "row": json.dumps({"a": ""})}


def test_only_unchanged_files_are_cleared(tmp_path):
    for name in ("same.jsonl", "changed.jsonl"):
        (tmp_path / name).write_text("{}\n")
    taken = inbox.keep_copies(sorted(tmp_path.iterdir()), tmp_path / "kept")
    (tmp_path / "changed.jsonl").write_text("{}\n{}\n")
    inbox.clear(tmp_path, taken)
    assert sorted(p.name for p in tmp_path.glob("*.jsonl")) == ["changed.jsonl"]
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["changed.jsonl", "same.jsonl"]
