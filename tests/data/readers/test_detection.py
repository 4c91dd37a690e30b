import json

import pytest

from llama_factory.core.errors import DataError
from llama_factory.data.reading import read_rows

ROW = {"instruction": "问", "output": "答"}


def rows_of(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return [row.value for row in read_rows(tmp_path / name)]


@pytest.mark.parametrize(
    "name", ["a", "a.json", "a.jsonl", "a.txt", "a.csv", "a.dat", "a.JSONL", "a.ndjson"]
)
def test_json_lines_are_known_by_their_content(tmp_path, name):
    text = (json.dumps(ROW) + "\n") * 3
    assert rows_of(tmp_path, name, text) == [ROW] * 3


@pytest.mark.parametrize("name", ["a", "a.json", "a.jsonl", "a.dat"])
@pytest.mark.parametrize("indent", [None, 2])
def test_lists_are_known_by_their_content(tmp_path, name, indent):
    assert rows_of(tmp_path, name, "\n" + json.dumps([ROW] * 3, indent=indent)) == [ROW] * 3


def test_text_that_begins_like_a_list_stays_text(tmp_path):
    assert rows_of(tmp_path, "a.txt", "[1] Smith\n{x}\n") == [
        {"text": "[1] Smith"},
        {"text": "{x}"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsnl", b"x", "files of kind '.jsnl' cannot be read yet. Did you mean '.jsonl'?"),
        ("rows", b"x", "files of kind 'rows' cannot be read yet. Known kinds: "),
        ("a.xlsx", b"PK\x03\x04....", "is a zip archive or a spreadsheet; unpack it, or save the"),
        ("a.json", b"PK\x03\x04....", "is a zip archive or a spreadsheet"),
        ("a.pkl", b"\x80\x04\x95", "is saved Python objects, which may run any code"),
        ("a.pdf", b"%PDF-1.4", "is a PDF; extract its text"),
        ("a.jsonl.bz2", b"BZh91AY", "is compressed with bzip2; unpack it"),
        ("a.jsonl.xz", b"\xfd7zXZ\0", "is compressed with xz; unpack it"),
        ("a.db", b"SQLite format 3\0", "is a database; export its table"),
    ],
)
def test_an_unreadable_file_names_a_remedy(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_rows(tmp_path / name))
    assert told in str(caught.value)
