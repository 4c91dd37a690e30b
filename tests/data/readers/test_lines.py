"""JSON lines, plain text, encodings and long lines."""

import json
import tracemalloc

import pytest

from llama_factory.core.errors import ConfigError, DataError
from llama_factory.core.types import TEXT, Example
from llama_factory.data.readers import LONGEST_ROW_BYTES
from llama_factory.data.reading import RawRow, Refused, read_examples, read_rows

LINE_BYTES = 4 * LONGEST_ROW_BYTES
GOOD = {"instruction": "问题?", "input": "", "output": "Café."}


def read(tmp_path, content, name="a.jsonl", encoding=None):
    path = tmp_path / name
    path.write_bytes(content)
    return list(read_rows(path, encoding=encoding))


def line(row=GOOD):
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def test_broken_lines_do_not_stop_the_rest(tmp_path):
    rows = read(tmp_path, line() + b'{"instruction": "x\n' + line() + b"\n" + b'{"instr')
    assert [(type(row), row.line) for row in rows] == [
        (RawRow, 1),
        (Refused, 2),
        (RawRow, 3),
        (Refused, 5),
    ]
    told = "this line is not valid JSON (Invalid control character at, column 19)."
    assert rows[1].reason == told
    assert rows[3].reason.endswith("column 2). The file may be half-written.")
    assert rows[3].text == '{"instr'


@pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 5000, b'{"a": ' * 50_000])
def test_monstrous_values_are_refused_rows(tmp_path, content):
    rows = read(tmp_path, line() + content + b"\n" + line())
    assert [type(row) for row in rows] == [RawRow, Refused, RawRow]
    assert "this line is not valid JSON (" in rows[1].reason


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_marked_encodings_are_known_by_their_mark(tmp_path, encoding, name):
    texts = {"a.json": f"[{line().decode()}]", "a.csv": "instruction,output\n问题?,Café.\n"}
    text = texts.get(name, line().decode())
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (row,) = read(tmp_path, (mark + text).encode(encoding), name)
    assert "问题?" in str(row.value)
    assert "\ufeff" not in str(row.value)


@pytest.mark.parametrize(
    ("encoding", "text", "told"),
    [
        ("latin-1", "Café.", "byte 0xe9 at column 18 (in cp1252 it would read 'é.\"}')"),
        ("gb18030", "中文", "byte 0xd6 at column 15 (in gb18030 it would read '中文\"}')"),
    ],
)
def test_a_line_in_another_encoding_is_reported_as_it_would_read(tmp_path, encoding, text, told):
    other = json.dumps({"question": text}, ensure_ascii=False).encode(encoding) + b"\n"
    first, refused, last = read(tmp_path, line() + other + line())
    assert first.value == last.value == GOOD
    assert refused.line == 2
    assert refused.reason.startswith("not UTF-8: " + told)
    assert "Save the file as UTF-8, or set `data.encoding: " in refused.reason
    assert text in refused.text


@pytest.mark.parametrize("encoding", ["gb18030", "GBK", "latin-1", "utf-16-le", "big5", "utf-8"])
def test_the_setting_decides_the_encoding(tmp_path, encoding):
    text = "Café" if encoding == "latin-1" else "中文"
    content = (json.dumps({"text": text}, ensure_ascii=False) + "\n").encode(encoding)
    rows = read(tmp_path, content * 2, encoding=encoding)
    assert [row.value for row in rows] == [{"text": text}] * 2


def test_a_line_that_is_not_in_the_encoding_set_is_refused(tmp_path):
    good = '{"text": "中文"}\n'.encode("gbk")
    rows = read(tmp_path, good + b'{"text": "\xff"}\n' + good, encoding="gbk")
    assert [type(row) for row in rows] == [RawRow, Refused, RawRow]
    assert rows[1].reason.startswith("not gbk: byte 0xff at column 11")


def test_half_of_a_utf_16_pair_costs_its_line_alone(tmp_path):
    lines = ['{"text": "中文"}\n'.encode("utf-16-le")] * 2
    content = b"\xff\xfe" + lines[0] + b'\0"'[::-1] + b"\x00\xd8" + b"\n\0" + lines[1] + b"x"
    rows = read(tmp_path, content)
    assert [row.value for row in rows if isinstance(row, RawRow)] == [{"text": "中文"}] * 2
    assert sum(isinstance(row, Refused) for row in rows) == 2


def test_an_unknown_encoding_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"data.encoding: 'gb18O30' is no encoding. Did you mean"):
        read(tmp_path, line(), encoding="gb18O30")


def test_utf_16_without_its_mark_is_reported(tmp_path):
    content = '{"text": "plain words"}\n'.encode("utf-16-le")
    with pytest.raises(DataError, match=r"UTF-16 without its mark; set `data.encoding: utf-16-le`"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("a.jsonl", line(), b"\n" + line()),
        ("a.txt", b"one\n", b"\ntwo\n"),
        ("a.csv", b"text\none\n", b"\ntwo\n"),
    ],
)
def test_a_line_of_any_length_is_skipped_in_bounded_memory(tmp_path, name, start, end):
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(start)
        file.truncate(LINE_BYTES)
        file.seek(0, 2)
        file.write(end)
    tracemalloc.start()
    first, refused, last = read_rows(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * LONGEST_ROW_BYTES
    assert isinstance(first, RawRow)
    assert isinstance(last, RawRow)
    assert refused.line == last.line - 1
    size = f"{LINE_BYTES - len(start) + 1:,}"
    told = f"this row has {size} bytes; the longest row read has 16,777,216."
    assert refused.reason.startswith(told)
    assert len(refused.text) == 200


def test_text_has_one_sample_a_line(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_bytes('第一行\r\n\n  \n  second, "line"  \n\0bad\nlast'.encode())
    rows = list(read_examples(path))
    examples = [row for row in rows if isinstance(row, Example)]
    assert [row.answer for row in examples] == ["第一行", '  second, "line"  ', "last"]
    assert [row.line for row in rows] == [1, 4, 5, 6]
    assert all(row.messages[0].role == TEXT for row in examples)
    assert rows[2].reason == "a NUL character at column 1: is this a text file?"
