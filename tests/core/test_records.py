"""Files that only grow: what was torn or damaged is passed over, and spoils nothing after it."""

import pytest

from llama_factory.core.records import append_records, numbered_records, read_records


@pytest.mark.parametrize(
    "torn", [b'{"n": 2', b'{"n": 2}garbage\n', b"\xff\xfe\n", b"null\n", b"[]\n"]
)
def test_what_cannot_be_read_is_passed_over(tmp_path, torn):
    path = tmp_path / "folder" / "log.jsonl"
    append_records(path, [{"n": 1}])
    with path.open("ab") as file:
        file.write(torn)
    append_records(path, [{"n": 3}, {"n": 4}])
    assert list(read_records(path, lambda value: value["n"])) == [1, 3, 4]
    assert [number for number, _ in numbered_records(path)] == [1, 2, 3, 4]


def test_no_records_make_no_file_and_no_file_has_no_records(tmp_path):
    path = tmp_path / "log.jsonl"
    append_records(path, [])
    assert not path.exists()
    assert list(read_records(path, dict)) == []


def test_halves_of_characters_come_back(tmp_path):
    append_records(tmp_path / "log.jsonl", [{"text": "a\udcff"}])
    assert list(read_records(tmp_path / "log.jsonl", dict)) == [{"text": "a\udcff"}]
